//! The loop: intake, schedule, forward, sample, commit, emit.
