#!/usr/bin/env bash
# `lowrank train` beside PEFT on torch, in one run on SST-2 with all-MiniLM-L6-v2: accuracy on the dev file, seconds, peak memory.
#
#   benches/peers/sst2.sh DATA        DATA holds train.tsv and dev.tsv, lines of text<TAB>0 or 1
#
# LOWRANK_SST2_STEPS     this many steps instead of 2 epochs: enough for speed and memory, not for accuracy
# LOWRANK_SST2_SEEDS     the seeds (0 1 2)
# LOWRANK_SST2_METHODS   lowrank's methods and their --precision (lora qlora qlora:fast); lora trains on the f32 base
# LOWRANK_SST2_THREADS   threads on both sides (2)
# LOWRANK_PEERS_PYTHON   a Python that has torch, transformers and peft (see tests/golden/requirements.txt); python3
set -euo pipefail
cd "$(dirname "$0")/../.."
data="${1:?the folder with train.tsv and dev.tsv}"
target="${CARGO_TARGET_DIR:-target}"
work="$target/sst2"
python="${LOWRANK_PEERS_PYTHON:-python3}"
seeds="${LOWRANK_SST2_SEEDS:-0 1 2}"
methods="${LOWRANK_SST2_METHODS:-lora qlora qlora:fast}"
threads="${LOWRANK_SST2_THREADS:-2}"
length=(--epochs 2)
[ -z "${LOWRANK_SST2_STEPS:-}" ] || length=(--steps "$LOWRANK_SST2_STEPS")
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error CUDA_VISIBLE_DEVICES=

"$python" -c 'import torch, transformers, peft' 2>/dev/null || { echo "SKIPPED: $python lacks one of torch, transformers, peft"; exit 0; }
mkdir -p "$work"
bash benches/peers/minilm.sh "$work"

echo "-- building"
cargo build -q --release --features cli
lowrank="$target/release/lowrank"
"$lowrank" import "$work/model" -o "$work/qlora.base.lrk" 2>/dev/null
"$lowrank" import "$work/model" -o "$work/lora.base.lrk" --weights f32 --embedding f32 2>/dev/null
rm -f "$work"/*.json

# Taking turns: what else the machine does then falls on all alike.
for seed in $seeds; do
    for method in $methods; do
        echo "-- lowrank $method, seed $seed"
        precision=exact
        [ "${method%:fast}" = "$method" ] || precision=fast
        method="${method%:fast}"
        "$lowrank" train --base "$work/$method.base.lrk" --data "$data/train.tsv" --validation "$data/dev.tsv" --task classify \
            --method "$method" --rank 8 --alpha 16 --batch-size 32 --max-length 128 --learning-rate 5e-4 --schedule linear \
            --warmup 0.0625 --seed "$seed" --threads "$threads" --precision "$precision" "${length[@]}" --checkpoint-every 0 --json \
            -o "$work/$method.lrk" >"$work/$method.$precision.$seed.json" 2>"$work/train.log" || { tail -3 "$work/train.log" >&2; exit 1; }
    done
    for order in random sorted; do
        echo "-- PEFT, $order batches, seed $seed"
        sorted=()
        [ "$order" = random ] || sorted=(--sorted)
        "$python" benches/peers/sst2.py peft "$work/model" "$data/train.tsv" "$data/dev.tsv" --seed "$seed" --threads "$threads" \
            "${length[@]}" "${sorted[@]}" >"$work/peft.$order.$seed.json" 2>"$work/peft.log" || { tail -5 "$work/peft.log" >&2; exit 1; }
    done
done
grep -m1 'model name' /proc/cpuinfo 2>/dev/null || uname -m
"$python" benches/peers/sst2.py table "$work"/*.json
