#!/usr/bin/env bash
# lowrank beside llama.cpp and bitsandbytes, alternately in one run on the same model and threads: one table of ratios.
# Run examples/quickstart.sh first: it fetches the model. The peers are installed from PyPI into
# ${XDG_CACHE_HOME:-~/.cache}/lowrank/peers (llama.cpp is compiled for this machine: a C++ compiler and CMake are needed).
#
# LOWRANK_PEERS_PYTHON   a Python that has llama_cpp, bitsandbytes and safetensors: skips the installation
# LOWRANK_PEERS_ROUNDS   rounds of which medians are taken (5)
# LOWRANK_SMOLLM2        the GGUF file, if it is not where the quickstart puts it
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
gguf="${LOWRANK_SMOLLM2:-$target/quickstart/SmolLM2-135M-Instruct.Q4_1.gguf}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/lowrank/peers"
work="$target/peers"
python="${LOWRANK_PEERS_PYTHON:-$cache/venv/bin/python}"

skip() { echo "SKIPPED: $*"; exit 0; }

[ -f "$gguf" ] || skip "$gguf is not there; run examples/quickstart.sh first"
if [ -z "${LOWRANK_PEERS_PYTHON:-}" ] && [ ! -f "$cache/ready" ]; then
    command -v c++ >/dev/null || skip "llama.cpp is built from source and there is no C++ compiler"
    mkdir -p "$cache"
    python3 -m venv "$cache/venv" || skip "python3 cannot make a virtual environment"
    echo "-- building llama-cpp-python from its source distribution, installing bitsandbytes and torch (log: $cache/install.log)"
    "$python" -m pip install -q --no-binary llama-cpp-python llama-cpp-python==0.3.36 bitsandbytes==0.50.2 torch==2.15.0 \
        safetensors==0.8.0 numpy >"$cache/install.log" 2>&1 || skip "the peers could not be installed; see $cache/install.log"
    touch "$cache/ready"
fi
"$python" -c 'import llama_cpp, bitsandbytes, safetensors' || skip "$python lacks one of llama_cpp, bitsandbytes, safetensors"

echo "-- building"
cargo build -q --release --features cli
nf4=$(cargo bench --bench peers_nf4 --no-run --message-format json 2>/dev/null |
    "$python" -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')
lowrank="$target/release/lowrank"

echo "-- preparing the models"
mkdir -p "$work"
"$python" benches/peers/prepare.py "$gguf" "$work" 2>"$work/prepare.log" || { cat "$work/prepare.log" >&2; exit 1; }
"$lowrank" import "$gguf" -o "$work/base.lrk" 2>/dev/null
for values in f16 int8; do
    "$lowrank" adapter import "$work/rank8" --base "$work/base.lrk" -o "$work/rank8-$values.lrk" --factors "$values" >/dev/null
done

grep -m1 'model name' /proc/cpuinfo 2>/dev/null || uname -m
"$python" benches/peers/compare.py "$lowrank" "$nf4" "$work" tests/golden/smollm2/text.txt 2>"$work/compare.log" ||
    { tail -5 "$work/compare.log" >&2; exit 1; }
