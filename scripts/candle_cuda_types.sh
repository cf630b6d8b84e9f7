#!/usr/bin/env bash
# Type-checks and lints the code of the cargo feature candle-cuda in a minute, with a compiler that makes nothing in place of
# nvcc: `cargo check` needs candle's crates, and not their kernels. scripts/build_candle_cuda.sh builds the real ones.
set -euo pipefail
cd "$(dirname "$0")/.."

place=$PWD/target/candle-cuda-types
mkdir -p "$place/bin" "$place/include"
cat > "$place/bin/nvcc" << 'EOF'
#!/usr/bin/env bash
# Answers as nvcc does, and writes empty files.
case "$*" in
    *--version*) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit 0 ;;
    *--list-gpu-code*) echo sm_90; exit 0 ;;
    *--list-gpu-arch*) echo compute_90; exit 0 ;;
esac
before=
for word in "$@"; do
    case "$before" in
        -o | --output-file) : > "$word" ;;
        --output-directory) folder=$word ;;
    esac
    before=$word
done
for word in "$@"; do
    case "$word" in *.cu) [ -z "${folder:-}" ] || : > "$folder/$(basename "${word%.cu}").ptx" ;; esac
done
EOF
chmod +x "$place/bin/nvcc"
export CUDA_HOME=$place CUDA_PATH=$place NVCC=$place/bin/nvcc PATH=$place/bin:$PATH CUDA_COMPUTE_CAP=90
unset CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR
exec cargo clippy --locked --target-dir "$place/target" --features candle-cuda --lib --bins --tests --benches -- -D warnings
