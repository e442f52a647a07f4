#!/usr/bin/env bash
# The table of docs/cuda.md: what ptxas makes of the product kernels, and what that allows a card: `bash ptx/predict.sh`. Needs ptxas and
# nvdisasm: $PTXAS and $NVDISASM, or wheels (proprietary: tools, never shipped).
set -euo pipefail
cd "$(dirname "$0")"
venv=../target/ptxas
if [ -z "${PTXAS:-}" ] || [ -z "${NVDISASM:-}" ]; then
    { [ -d "$venv" ] || python3 -m venv "$venv"; } >/dev/null 2>&1 &&
        "$venv/bin/pip" install --quiet nvidia-cuda-nvcc==13.0.88 nvidia-cuda-nvdisasm==13.2.51 >/dev/null 2>&1 || true
    PTXAS="$(find "$venv" -name ptxas -type f 2>/dev/null | head -n 1)"
    NVDISASM="$(find "$venv" -name nvdisasm -type f 2>/dev/null | head -n 1)"
fi
[ -n "$PTXAS" ] && [ -n "$NVDISASM" ] || { echo "SKIPPED: no ptxas or nvdisasm (pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm)"; exit 0; }
chmod u+x "$PTXAS" "$NVDISASM" 2>/dev/null || true
PTXAS="$PTXAS" NVDISASM="$NVDISASM" python3 predict.py
