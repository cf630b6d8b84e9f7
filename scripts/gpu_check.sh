#!/usr/bin/env bash
# Everything that needs a GPU, in two parts, since what builds need not be what has the GPU.
#
#   scripts/gpu_check.sh build     here, without a GPU: target/gpu/check.tar.xz (test programs, benchmark, mlff)
#   scripts/gpu_check.sh run       there, in a copy of this repository with target/gpu: under 10 minutes
#
# `run` needs NVIDIA's driver for CUDA 13.0, and NVRTC, cuBLAS and cuRAND: of the toolkit, or of the Python packages that PyTorch
# brings along. compute-sanitizer travels with the programs; PyTorch is used where it is. Results: $OUT, else benchmarks/results/gpu.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
place=target/gpu

programs() { # from cargo's messages: NAME=PATH
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable"): print(message["target"]["name"] + "=" + message["executable"])'
}

build() {
    set -e
    rm -rf "$place" && mkdir -p "$place/bin"
    {
        cargo test --locked --release --no-run --test cuda_kernels --message-format json
        cargo bench --locked --no-run --bench cuda --message-format json
        scripts/build_candle_cuda.sh test --release --no-run --test cuda_autograd --message-format json
        # Last: the others build a program of the same name without candle's CUDA.
        scripts/build_candle_cuda.sh build --release --bin mlff --message-format json
    } | programs | grep -E '^(cuda_kernels|cuda|cuda_autograd|mlff)=' > "$place/programs"
    while IFS== read -r name path; do cp "$path" "$place/bin/$name" && strip "$place/bin/$name"; done < "$place/programs"
    rm "$place/programs"
    # compute-sanitizer, which machines with a GPU rarely have.
    target/cuda/venv/bin/pip install -q --no-deps --target "$place/sanitizer" 'nvidia-cuda-sanitizer-api==13.0.*'
    mkdir "$place/bin/sanitizer"
    mv "$place"/sanitizer/nvidia/cu13/{bin,lib} "$place/bin/sanitizer" && rm -r "$place/sanitizer"
    chmod +x "$place/bin/sanitizer/bin/compute-sanitizer"
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
    step kernels 120 "$place/bin/cuda_kernels" --test-threads 1 cuda_
    step autograd 120 "$place/bin/cuda_autograd" --test-threads 1 --nocapture
    step benchmark 120 "$place/bin/cuda" --json "$out/kernels.json"
    local mlff=$place/bin/mlff
    step profile 20 "$mlff" profile --device cuda --molecule benzene \
        --json="$out/profile.json" --trace "$out/profile_trace.json" --plot "$out/profile.svg"
    step profile_sweep 20 "$mlff" profile --device cuda --molecule benzene --structures 256 --repeats 5 \
        --sweep 1,4,16,64,256 --json="$out/profile_sweep.json" --plot "$out/profile_sweep.svg"
    if [ -s "$out/kernels.json" ] && python3 -c 'import torch' 2> /dev/null; then
        step unfused 60 python3 benchmarks/cuda_unfused.py "$out/kernels.json"
    fi
    # The machine's own first: on an H200 the one packed along said its version, but started no program.
    local sanitizer
    sanitizer=$(PATH="$PATH:/usr/local/cuda/bin" command -v compute-sanitizer) || sanitizer=$place/bin/sanitizer/bin/compute-sanitizer
    if "$sanitizer" --version > "$out/sanitizer.log" 2>&1; then
        step memcheck 70 "$sanitizer" --error-exitcode 9 --tool memcheck "$place/bin/cuda_kernels" --test-threads 1 cuda_matches_cpu
        step racecheck 70 "$sanitizer" --error-exitcode 9 --tool racecheck "$place/bin/cuda_kernels" --test-threads 1 message_cuda_matches_cpu
    else
        echo "| compute-sanitizer | does not start: sanitizer.log | |" >> "$out/gpu.md"
        failed=1
    fi
    for table in benchmark unfused; do
        [ -f "$out/$table.log" ] && { echo && grep -vE ': [0-9.]+ µs$' "$out/$table.log"; } >> "$out/gpu.md"
    done
    for table in profile profile_sweep; do
        [ -f "$out/$table.log" ] && printf '\n```\n%s\n```\n' "$(cat "$out/$table.log")" >> "$out/gpu.md"
    done
    return "$failed"
}

case ${1:-} in
build) build ;;
run) run ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
