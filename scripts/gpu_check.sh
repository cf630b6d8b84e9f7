#!/usr/bin/env bash
# Everything that needs a GPU, in two parts, since what builds need not be what has the GPU.
#
#   scripts/gpu_check.sh build            here, without a GPU: target/gpu/check.tar.xz (tests, benchmarks, mlff): some 8 minutes
#   scripts/gpu_check.sh build candle     with batched autograd by candle's CUDA too: 20 minutes more
#   scripts/gpu_check.sh run              there, in a copy of this repository with target/gpu: under 5 minutes
#
# `run` needs NVIDIA's driver for CUDA 13.0, and NVRTC (with candle also cuBLAS and cuRAND): of the toolkit, or of the Python
# packages that PyTorch brings along. PyTorch and compute-sanitizer are used where they are. Results: $OUT, else
# benchmarks/results/gpu.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
place=target/gpu

programs() { # from cargo's messages: NAME=PATH
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable"): print(message["target"]["name"] + "=" + message["executable"])'
}

take() { # programs by name, out of the messages of the cargo command given
    local names=$1 name path
    shift
    "$@" --message-format json | programs | grep -E "^($names)=" | while IFS== read -r name path; do
        cp "$path" "$place/bin/$name" && strip "$place/bin/$name"
    done
}

build() {
    set -e
    rm -rf "$place" && mkdir -p "$place/bin"
    # Kernels are timed by the device: tests and the benchmark of single kernels may be slow themselves.
    take cuda_kernels cargo test --locked --no-run --test cuda_kernels
    take cuda cargo build --locked --bench cuda
    if [ "${1:-}" = candle ]; then
        take cuda_autograd scripts/build_candle_cuda.sh test --release --no-run --test cuda_autograd
        take mlff scripts/build_candle_cuda.sh build --release --bin mlff
        mv "$place/bin/mlff" "$place/bin/mlff_candle"
    fi
    take cuda_engine cargo bench --locked --no-run --bench cuda_engine
    take mlff cargo build --locked --release --bin mlff
    git log -1 --format='%h %cs' > "$place/bin/commit"
    git diff --quiet HEAD || echo "with changes" >> "$place/bin/commit"
    tar -C "$place" -cf - bin | xz -9 -T1 > "$place/check.tar.xz"
    rm -r "$place/bin"
    ls -l "$place"
}

# One step: its output into a file, its outcome into the summary.
step() { # NAME SECONDS COMMAND…
    local name=$1 limit=$2 outcome
    shift 2
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    outcome=$?
    case $outcome in
    0) outcome=passed ;;
    124) outcome="not finished in $limit s" failed=1 ;;
    *) outcome="FAILED ($outcome)" failed=1 ;;
    esac
    # Tests that lack what they need skip themselves; here everything is there, or nothing has been checked.
    if grep 'SKIPPED: ' "$out/$name.log" | grep -qv 'SKIPPED: kernels on the host: '; then outcome="$outcome, tests SKIPPED" failed=1; fi
    echo "| $name | $outcome | $(grep -hE '^test result' "$out/$name.log" | tail -1) |" >> "$out/gpu.md"
    echo "== $name: $outcome"
    tail -n 15 "$out/$name.log"
}

run() {
    out=${OUT:-benchmarks/results/gpu} failed=0
    nvidia-smi > /dev/null || { echo "error: no GPU here (nvidia-smi finds none): nothing can be checked" >&2; exit 2; }
    mkdir -p "$out"
    python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$place/check.tar.xz" "$place" || exit 2
    # The libraries of Python's packages, for the loader and for NVRTC's search.
    local folders
    folders=$(python3 -c 'import glob, site, sys
roots = site.getsitepackages() + [site.getusersitepackages()]
print(":".join(sorted({p for r in roots for p in glob.glob(r + "/nvidia/*/lib")})))')
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folders"
    # The programs were built elsewhere; the host's half of the shared tests has run there.
    export CARGO_MANIFEST_DIR=$PWD MLFF_TEST_HOST=0 RUST_BACKTRACE=0 MLFF_CACHE=${MLFF_CACHE:-$PWD/target/gpu/cache}
    {
        echo "# On a GPU"
        echo
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
        echo "commit $(tr '\n' ' ' < "$place/bin/commit")"
        printf '\n| step | outcome | |\n|---|---|---|\n'
    } > "$out/gpu.md"
    local mlff=$place/bin/mlff
    step kernels 100 "$place/bin/cuda_kernels" --test-threads 1 cuda_
    step engine 100 "$place/bin/cuda_engine" --json "$out/engine.json"
    # A trajectory of a thousand times the example's frames would only measure the disk: ten times.
    for _ in 1 2 3 4 5 6 7 8 9 10; do cat examples/data/trajectory.xyz; done > "$place/many.xyz"
    for device in cuda cpu cuda cpu; do
        step "predict_$device" 30 "$mlff" predict "$place/many.xyz" --device "$device" -o "$place/$device.xyz" --overwrite --no-progress
    done
    step profile 20 "$mlff" profile --device cuda --molecule benzene --structures 1024 --repeats 5 \
        --json="$out/profile.json" --trace "$out/profile_trace.json"
    # The machine's own: on an H200 one from PyPI said its version, but started no program.
    local sanitizer
    if sanitizer=$(PATH="$PATH:/usr/local/cuda/bin" command -v compute-sanitizer); then
        for tool in memcheck racecheck; do
            step "$tool" 60 "$sanitizer" --error-exitcode 9 --tool "$tool" "$place/bin/cuda_kernels" --test-threads 1 cuda_painn
        done
    else
        echo "| compute-sanitizer | not on this machine | |" >> "$out/gpu.md"
    fi
    if [ -x "$place/bin/cuda_autograd" ]; then
        step autograd 120 "$place/bin/cuda_autograd" --test-threads 1 --nocapture
        step autograd_profile 20 "$place/bin/mlff_candle" profile --device cuda --engine autograd --molecule benzene \
            --structures 256 --repeats 5 --sweep 1,4,16,64,256 --json="$out/autograd_profile.json"
    fi
    step benchmark 60 "$place/bin/cuda" --json "$out/kernels.json"
    if [ -s "$out/kernels.json" ] && python3 -c 'import torch' 2> /dev/null; then
        step unfused 40 python3 benchmarks/cuda_unfused.py "$out/kernels.json"
    fi
    for table in benchmark unfused; do
        [ -f "$out/$table.log" ] && { echo && grep -vE ': [0-9.]+ µs$' "$out/$table.log"; } >> "$out/gpu.md"
    done
    for table in engine predict_cuda predict_cpu profile autograd_profile; do
        [ -f "$out/$table.log" ] && printf '\n```\n%s\n```\n' "$(cat "$out/$table.log")" >> "$out/gpu.md"
    done
    return "$failed"
}

case ${1:-} in
build) build "${2:-}" ;;
run) run ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
