#!/usr/bin/env bash
# The threads of a session under ThreadSanitizer. Needs a nightly toolchain; says so and does nothing without one.
#   scripts/tsan.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../fuzz/tsan"
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "SKIPPED: ThreadSanitizer needs a nightly toolchain (rustup toolchain install nightly)" >&2
    exit 0
fi
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
# The standard library is not compiled for it, so that its own reference counts of threads look like races.
export TSAN_OPTIONS="suppressions=$PWD/suppressions.txt halt_on_error=1"
export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
cargo +nightly run --release --target "$host" -- "${1:-2000}"
