#!/usr/bin/env bash
# Makes the embedded model: texts, base, adapters. Everything is done by this crate, and everything random has a seed.
#
#   assets/make.sh [SMOLLM2.lrk]
#
# SMOLLM2.lrk (`examples/quickstart.sh` makes it) writes the texts; where `texts/` has them already it is not needed. A machine with
# other vector instructions rounds differently and gets another model of the same quality; then the figures and texts
# of README.md change too, and `cargo test --test embedded` says which.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never
work=${CARGO_TARGET_DIR:-target}/assets
bin=${CARGO_TARGET_DIR:-target}/release
texts=assets/texts
mkdir -p "$work" "$texts"
cargo build --quiet --release --features cli --bin lowrank --example write --example stories
lowrank=$bin/lowrank

if [ ! -e "$texts/story.train.jsonl" ]; then
    smollm2=${1:?no texts are there: SMOLLM2.lrk has to write them}
    "$bin/examples/stories" prompts "$work"
    for kind in story pirate notes; do
        "$bin/examples/write" "$smollm2" "$work/$kind.prompts.jsonl" "$work/$kind.written.jsonl" 24 2
    done
    "$bin/examples/stories" texts "$work" "$texts"
fi

# The base: pre-trained in f32, then linear layers to 4 bits, embedding (which is the head too) to 8.
"$lowrank" init assets/tiny.json --seed 1 -o "$work/fresh.lrk"
"$lowrank" train --base "$work/fresh.lrk" --data "$texts/story.train.jsonl" --validation "$texts/story.held-out.jsonl" --task lm \
    --method full --epochs 14 --patience 14 --batch-size 8 --max-length 128 --learning-rate 3e-3 --schedule cosine --warmup 0.05 \
    --weight-decay 0.1 --seed 1 --threads 2 -o "$work/float.lrk"
"$lowrank" import "$work/float.lrk" -o assets/tiny.lrk

# The adapters, on the 4-bit base; of the same layers, one twice as large as the other.
for style in pirate:4 notes:8; do
    name=${style%:*} rank=${style#*:}
    "$lowrank" train --base assets/tiny.lrk --data "$texts/$name.train.jsonl" --validation "$texts/$name.held-out.jsonl" --task lm \
        --method qlora --rank "$rank" --epochs 8 --patience 8 --batch-size 4 --max-length 128 --learning-rate 3e-3 --schedule cosine \
        --warmup 0.1 --seed 1 --threads 2 -o "assets/tiny-$name.lrk"
done
rm -f assets/*.checkpoint

# The figures of README.md.
ls -l assets/*.lrk
"$bin/examples/stories" bits "$texts" story "$work/float.lrk"
"$bin/examples/stories" bits "$texts" story assets/tiny.lrk
for style in pirate notes; do
    "$bin/examples/stories" bits "$texts" "$style" assets/tiny.lrk "assets/tiny-$style.lrk"
done
cargo run --quiet --release --example tiny
