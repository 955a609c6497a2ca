//! Developer commands: ci, tidy, bench, fixtures.

fn main() {}
