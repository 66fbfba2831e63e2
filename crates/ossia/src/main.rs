//! The ossia program.

fn main() {}
