#!/usr/bin/env bash
# Registers, spills and shared memory of every kernel, as ptxas reports them. No GPU needed.
#
#   scripts/ptxas_report.sh [CAPABILITY…]      default: 75 80 86 89 90 100
#
# Installs NVRTC and ptxas from PyPI into .venv unless they are there. Ends with status 1 if a kernel spills registers.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -c 'import glob, sys; sys.exit(not glob.glob(sys.prefix + "/lib/python3*/site-packages/nvidia/*/bin/ptxas") or not glob.glob(sys.prefix + "/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so*"))' ||
    .venv/bin/pip install -q --timeout 20 --retries 1 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-nvcc==13.0.*'
exec .venv/bin/python scripts/ptxas_report.py "${@:-}"
