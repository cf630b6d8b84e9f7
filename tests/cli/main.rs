//! The command line, through the program itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calibrate;
mod commands;
mod failures;
mod imports;
mod memory;
mod outside;
mod predict;
mod profile;
mod resume;
mod strangers;
mod support;
