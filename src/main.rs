//! The `mlff` command.

fn main() {}
