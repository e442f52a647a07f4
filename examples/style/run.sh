#!/usr/bin/env bash
# Two writing styles as two adapters on one 4-bit base, from one command: trains `pirate` and `notes` on conversations that SmolLM2
# wrote, measures base, own and other adapter on conversations that training never saw, and swaps them while generating. The base is
# the quickstart's; without one the quickstart makes it. Further options (--threads 4, --seed 1) go to `lowrank train`.
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
base="$target/quickstart/base.lrk"
work="$target/style"
lowrank="$target/release/lowrank"
styles=(notes pirate)

[ -f "$base" ] || bash examples/quickstart.sh
echo "-- building"
cargo build -q --release --features cli
mkdir -p "$work"

for style in "${styles[@]}"; do
    echo "-- training $style"
    "$lowrank" train --base "$base" --data "examples/style/$style.train.jsonl" --completions-only --method qlora --rank 4 --alpha 8 \
        --target-modules q_proj,k_proj,v_proj,o_proj --batch-size 4 --epochs 3 --learning-rate 1e-3 --warmup 0.1 --max-length 192 \
        -o "$work/$style.f32.lrk" "$@"
    # Trained in f32; kept, and given to others, in f16: half the bytes.
    "$lowrank" adapter export "$work/$style.f32.lrk" --base "$base" -o "$work/f32/$style"
    "$lowrank" adapter import "$work/f32/$style" --base "$base" --factors f16 -o "$work/$style.lrk"
    "$lowrank" adapter export "$work/$style.lrk" --base "$base" -o "$work/$style"
done

echo "-- perplexity of held-out answers"
perplexity() {
    "$lowrank" evaluate --base "$base" --data "examples/style/$1.held-out.jsonl" --completions-only "${@:2}" 2>"$work/evaluate.log" |
        awk '{ print $2 }' || { cat "$work/evaluate.log" >&2; return 1; }
}
row() { printf '%-16s%14s%14s\n' "$@"; }
measure() {
    local on_notes on_pirate
    on_notes=$(perplexity notes "${@:2}")
    on_pirate=$(perplexity pirate "${@:2}")
    row "$1" "$on_notes" "$on_pirate"
}
{
    row "" notes pirate
    measure base
    for style in "${styles[@]}"; do measure "base + $style" --adapter "$work/$style.lrk"; done
} | tee "$work/perplexity.txt"
awk '
    { notes[NR] = $(NF - 1); pirate[NR] = $NF }
    END {
        if (notes[3] >= notes[2] || notes[3] >= notes[4] || pirate[4] >= pirate[2] || pirate[4] >= pirate[3]) {
            print "an adapter is not the best at its own style"
            exit 1
        }
    }
' "$work/perplexity.txt"

echo "-- one process: the base, then each adapter"
"$lowrank" generate --base "$base" --chat --prompt "How do I keep my kitchen knives sharp?" --tokens 60 --stats \
    --swap "pirate=$work/pirate.lrk" --swap "notes=$work/notes.lrk"
