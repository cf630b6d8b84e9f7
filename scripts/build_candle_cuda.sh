#!/usr/bin/env bash
# Builds with candle's CUDA backend (cargo feature candle-cuda), which batched autograd on the GPU needs. No GPU, driver or
# CUDA toolkit needed: the compiler comes from PyPI into target/cuda. x86-64 Linux; needs Rust, Python and a C++ compiler.
#
#   scripts/build_candle_cuda.sh                       cargo build --release --features candle-cuda
#   scripts/build_candle_cuda.sh test --no-run         the same environment for any other cargo command
#
# CUDA_COMPUTE_CAP is the oldest GPU that the program runs on (default 90, H100 and H200; 80 is A100, 75 is T4). The driver
# must support CUDA 13.0 (580 or newer). The program starts without any of NVIDIA's libraries; on a GPU it loads the driver,
# NVRTC, cuBLAS and cuRAND, which the toolkit has, or
#   pip install 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.*'
# with their folder in LD_LIBRARY_PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "error: this script is for x86-64 Linux, this is $(uname -sm)" >&2; exit 2; }

place=$PWD/target/cuda
[ -x "$place/venv/bin/pip" ] || python3 -m venv "$place/venv"
packages=('nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*')
found=$(echo "$place"/venv/lib/python3*/site-packages/nvidia/cu13)
[ -x "$found/bin/nvcc" ] && [ -d "$found/include/cccl" ] && [ -d "$found/nvvm/bin" ] && [ -f "$found/lib/libcudart_static.a" ] ||
    "$place/venv/bin/pip" install -q --timeout 60 --retries 2 "${packages[@]}"
found=$(echo "$place"/venv/lib/python3*/site-packages/nvidia/cu13)

# The packages as a toolkit: what links is in lib64, under the names that linkers look for.
root=$place/root
mkdir -p "$root/lib64"
for part in bin include nvvm; do ln -sfn "$found/$part" "$root/$part"; done
ln -sf "$found/lib/libcudart_static.a" "$root/lib64/libcudart.a"
cudarc=$(cargo metadata --locked --format-version 1 --features candle-cuda --filter-platform x86_64-unknown-linux-gnu |
    "$place/venv/bin/python" -c 'import json, os, sys
print(*(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
"$place/venv/bin/python" scripts/delay_load.py "$cudarc" "$root/lib64"

export CUDA_HOME=$root CUDA_PATH=$root NVCC=$root/bin/nvcc PATH=$root/bin:$PATH CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
unset CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR
if [ $# = 0 ]; then set -- build --release; fi
command=$1
shift
exec cargo "$command" --locked --features candle-cuda "$@"
