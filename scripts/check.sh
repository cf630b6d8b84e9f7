#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests, documentation. Needs a Rust toolchain and a C
# compiler, for the CUDA kernels and the fuzzer a C++ compiler. Tests that need ASE or NVRTC find or install them in .venv. A
# test that lacks what it needs skips itself and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
step cargo test --locked
# Each feature alone, and none: what evaluates and steps, and what is said where something is missing. Not optimised: the
# kernels' own tests, which would take long, ran above.
for features in "" autograd cli compression cuda; do
    step cargo clippy --locked --no-default-features --features "$features" --lib --bins --tests -- -D warnings
    CARGO_PROFILE_DEV_OPT_LEVEL=0 step cargo test --locked --no-default-features --features "$features" \
        --lib --test features --test limits -- --skip cpu::tests
done
# Batched autograd on a GPU, which the full build leaves out.
if [ "$(uname -s)" = Linux ]; then
    step scripts/candle_cuda_types.sh
fi
# What is published is small. (That it builds, `cargo package` says, in as long as everything takes from nothing.)
step cargo package --locked --allow-dirty --no-verify
if [ "$(wc -c < "$(ls target/package/mlff-*.crate)")" -gt 3000000 ]; then
    echo "the package is larger than 3 MB: see include in Cargo.toml" >&2
    exit 1
fi
if command -v c++ > /dev/null && command -v python3 > /dev/null; then
    step scripts/fuzz.sh short
else
    echo "SKIPPED: fuzz targets: no C++ compiler or no python3 here" >&2
fi
RUSTFLAGS="--cfg loom" step cargo run --quiet --release --target-dir target/loom --manifest-path fuzz/loom/Cargo.toml
step scripts/tsan.sh 500
