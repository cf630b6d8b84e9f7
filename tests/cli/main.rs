//! The command line, through the program itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calibrate;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod imports;
mod labels;
mod many;
mod meaning;
mod memory;
#[cfg(unix)]
mod outputs;
mod outside;
mod predict;
mod profile;
mod reading;
mod resume;
#[cfg(unix)]
mod stopped;
mod strangers;
mod support;
mod threads;
