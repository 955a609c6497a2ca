//! Test support: tiny models from seeds, golden files, naive oracles.
