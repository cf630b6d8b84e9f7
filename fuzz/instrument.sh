#!/usr/bin/env bash
# A RUSTC_WORKSPACE_WRAPPER: compiles this workspace's own crates with the counters that libFuzzer reads, on stable Rust;
# crates of others stay as they are, so that a build for tests serves for them too.
exec "$@" --cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
