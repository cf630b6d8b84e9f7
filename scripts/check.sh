#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests, documentation. Needs a Rust toolchain and a C
# compiler, for the CUDA kernels a C++ compiler. Tests that need ASE or NVRTC find or install them in .venv. A test that
# lacks what it needs skips itself and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
step cargo test --locked
