#!/usr/bin/env bash
# What a card does: `bash benches/gpu.sh --prepare` builds target/gpu/ where Rust is, `bash benches/gpu.sh` runs it where the card is
# (needs the driver, nothing else). First the tests of the device path on the card, then tokens per second. With GPU_DRY=1 it
# runs through the software driver and small shapes instead: a rehearsal.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/gpu
if [ "${1:-}" = --prepare ]; then
    mkdir -p "$out"
    cargo build --release --features cli,cuda
    cp "${CARGO_TARGET_DIR:-target}/release/lowrank" "$out/"
    cargo test --features cli,cuda --test cuda --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/cuda-[^"]*\)".*/\1/p' | tail -n 1 | xargs -I{} cp {} "$out/cuda-tests"
    cargo build -p softptx
    cp "${CARGO_TARGET_DIR:-target}/debug/libsoftptx.so" "$out/"
    echo "$out is ready; run this script without arguments where the card is"
    exit 0
fi
[ -x "$out/lowrank" ] || { echo "build first: bash benches/gpu.sh --prepare" >&2; exit 2; }
export LOWRANK_CUDA_DRIVER="${LOWRANK_CUDA_DRIVER:-libcuda.so.1}"
dim=2048 layers=22 hidden=5632 tokens=128 prompt=256 rounds=5
if [ "${GPU_DRY:-}" ]; then
    LOWRANK_CUDA_DRIVER="$PWD/$out/libsoftptx.so" dim=128 layers=1 hidden=256 tokens=2 prompt=4 rounds=1
fi
card=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "unknown card")
echo "== $card"
echo "== the device path against the CPU path"
# What plants faults needs the software driver.
"$out/cuda-tests" --test-threads 1 --skip faults::
echo "== 1.2 B parameters, NF4 with double quantization, random weights"
cat >"$out/config.json" <<JSON
{"model_type": "llama", "tokenizer": "bytes", "hidden_size": $dim, "intermediate_size": $hidden, "num_hidden_layers": $layers,
 "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": true}
JSON
[ -f "$out/base.lrk" ] && [ -z "${GPU_DRY:-}" ] || "$out/lowrank" init "$out/config.json" --seed 1 -o "$out/float.lrk" --force
[ -f "$out/base.lrk" ] && [ -z "${GPU_DRY:-}" ] || "$out/lowrank" import "$out/float.lrk" -o "$out/base.lrk" --force
measure() { # BASE, more arguments
    echo "-- $*, $(wc -c <"$1") bytes, $card"
    "$out/lowrank" bench --device cuda --base "$1" "${@:2}" --tokens "$tokens" --prompt-tokens "$prompt" --rounds "$rounds" --json
}
measure "$out/base.lrk"
smollm2=target/quickstart
if [ -f "$smollm2/base.lrk" ]; then
    measure "$smollm2/base.lrk"
    [ ! -f "$smollm2/pirate.lrk" ] || measure "$smollm2/base.lrk" --adapter "$smollm2/pirate.lrk"
fi
