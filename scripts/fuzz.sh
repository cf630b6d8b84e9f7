#!/usr/bin/env bash
# Throws damaged input at what reads files and at sessions, with libFuzzer on stable Rust.
#
#   scripts/fuzz.sh TARGET [RUNS]     so many executions of one target [default: 1000000]
#   scripts/fuzz.sh all [RUNS]        of each
#   scripts/fuzz.sh bulk TARGET RUNS  many more, without the fuzzer's counters, on mutations of what it has kept
#   scripts/fuzz.sh short             a few seconds of each, in a build like that of the tests
#
# Targets: xyz compression model safetensors pickle calibration session. Needs a C++ compiler and python3. Inputs that were
# worth keeping stay in target/fuzz/corpus and are taken up by the next run; one that fails is written to target/fuzz/failures.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=(xyz compression model safetensors pickle calibration session)
declare -A largest=([xyz]=4096 [compression]=4096 [model]=32768 [safetensors]=32768 [pickle]=8192 [calibration]=16384 [session]=256)

build() { # PROFILE
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target} RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/instrument.sh \
        cargo build --locked --quiet --package mlff-fuzz --bin fuzz --profile "$1" --message-format json |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "fuzz": print(message["executable"])' | tail -1
}

fuzz() { # PROGRAM TARGET FLAGS…
    local program=$1 target=$2 corpus=target/fuzz/corpus/$2 failures=target/fuzz/failures/$2
    shift 2
    mkdir -p "$corpus" "$failures"
    FUZZ_TARGET=$target CANDLE_NUM_THREADS=1 RAYON_NUM_THREADS=1 "$program" "$@" -artifact_prefix="$failures/" \
        -max_len="${largest[$target]}" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 -verbosity="${VERBOSITY:-1}" \
        "$corpus" "target/fuzz/seeds/$target"
}

case ${1:-} in
short)
    program=$(build dev)
    fuzz/seeds.py target/fuzz/seeds
    for target in "${targets[@]}"; do
        echo "== fuzz $target"
        fuzz "$program" "$target" -seed=1 -max_total_time=8 2>&1 | grep -vE '^(#[0-9]|INFO: )' || exit 1
    done
    ;;
all | xyz | compression | model | safetensors | pickle | calibration | session)
    program=$(build fuzz)
    fuzz/seeds.py target/fuzz/seeds
    if [ "$1" = all ]; then chosen=("${targets[@]}"); else chosen=("$1"); fi
    for target in "${chosen[@]}"; do
        echo "== fuzz $target"
        fuzz "$program" "$target" -runs="${2:-1000000}"
    done
    ;;
bulk)
    target=${2:?a target} runs=${3:-10000000}
    cargo build --locked --quiet --package mlff-fuzz --bin bulk --profile fuzz
    fuzz/seeds.py target/fuzz/seeds
    mkdir -p "target/fuzz/corpus/$target"
    program=${CARGO_TARGET_DIR:-target}/fuzz/bulk
    CANDLE_NUM_THREADS=1 RAYON_NUM_THREADS=1 "$program" "$target" "$runs" "${SEED:-1}" "${largest[$target]}" \
        "target/fuzz/corpus/$target" "target/fuzz/seeds/$target"
    ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
