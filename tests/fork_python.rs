//! Python's `multiprocessing`, which forks: a library of C functions loaded by ctypes evaluates in the workers.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn python_workers_made_by_fork_evaluate_and_step_as_their_parent_does() {
    let skip = |why: &str| eprintln!("SKIPPED: Python's multiprocessing: {why}");
    let is_there = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there("python3") {
        return skip("no python3");
    }
    let Some(cargo) = std::env::var_os("CARGO") else { return skip("not run by cargo, which builds the library") };
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--example", "fork_library"]).current_dir(common::root());
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the library cannot be built");
    let program = std::env::current_exe().unwrap();
    let library = program.ancestors().nth(2).unwrap().join("examples/libfork_library.so");
    let mut python = Command::new("python3");
    python.arg(common::root().join("tests/fork_python/fork.py")).arg(library);
    let mut python = python.stdout(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while python.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(300) {
            python.kill().unwrap();
            panic!("Python hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"same energies"), "{output:?}");
}
