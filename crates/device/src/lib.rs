//! One object-safe device trait, operations as data, and the CPU that runs them.
