#!/usr/bin/env bash
# Assembles every .ptx here with NVIDIA's ptxas for every generation of cards since Turing: `bash ptx/assemble.sh`. Fails on an error
# or a register that is spilled. ptxas comes from $PTXAS or from a wheel (proprietary: a tool, never shipped).
set -euo pipefail
cd "$(dirname "$0")"
ptxas="${PTXAS:-$(command -v ptxas || true)}"
if [ -z "$ptxas" ]; then
    venv=../target/ptxas
    { [ -d "$venv" ] || python3 -m venv "$venv"; } >/dev/null 2>&1 &&
        "$venv/bin/pip" install --quiet nvidia-cuda-nvcc==13.0.88 >/dev/null 2>&1 || true
    ptxas="$(find "$venv" -name ptxas -type f 2>/dev/null | head -n 1)"
fi
[ -n "$ptxas" ] || { echo "SKIPPED: no ptxas (pip install nvidia-cuda-nvcc==13.0.88)"; exit 0; }
chmod u+x "$ptxas" 2>/dev/null || true
for target in 75 80 86 89 90 100 120; do
    for file in *.ptx; do
        log="$("$ptxas" -arch="sm_$target" -v "$file" -o /dev/null 2>&1)" || { echo "$log"; exit 1; }
        if grep -E 'spill' <<<"$log" | grep -qv ' 0 bytes spill stores, 0 bytes spill loads'; then
            echo "FAIL: $file spills registers on sm_$target"
            echo "$log"
            exit 1
        fi
    done
    echo "sm_$target: $(ls ./*.ptx | wc -l) files"
done
