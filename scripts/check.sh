#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests, documentation. Needs a Rust toolchain and a C
# compiler; the test that reads results back with ASE finds or installs it in .venv, or skips itself and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
step cargo test --locked
