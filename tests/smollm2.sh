#!/usr/bin/env bash
# The promises that need the real model, after examples/quickstart.sh has fetched it: greedy continuations, perplexity, token ids,
# styles, and resident memory.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
work="$target/quickstart"
export LOWRANK_SMOLLM2="$PWD/$work/SmolLM2-135M-Instruct.Q4_1.gguf"
case "$work" in /*) LOWRANK_SMOLLM2="$work/SmolLM2-135M-Instruct.Q4_1.gguf" ;; esac
cargo test --release --features cli --test smollm2 --test smollm2_tokens -- --nocapture --test-threads 1

# A conversation in which the adapter is swapped: three answers to one question, all different.
chat=$(printf '%s\n' "What is tea?" /reset "/adapter notes" "What is tea?" /reset "/adapter pirate" "What is tea?" |
    "$target/release/lowrank" chat --base "$work/base.lrk" --adapter "pirate=$work/pirate.lrk" --adapter "notes=$work/notes.lrk" --tokens 24 --temperature 0 2>/dev/null)
printf '%s\n' "$chat"
for style in "^- " "Ahoy\|Arr\|matey"; do
    grep -q "$style" <<<"$chat" || { echo "chat: no answer in the style of $style"; exit 1; }
done

cargo build -q --release --features cli --example resident
adapters=("$work"/[!b]*.lrk)
"$target/release/examples/resident" 512 "$work/base.lrk" "${adapters[@]}" | tee "$work/resident.tsv"
base=$(stat -c %s "$work/base.lrk")
# Columns: step, resident, anonymous, file. At most 24 MB over the mapped base; an adapter adds at most its own file (and a page).
awk -F '\t' -v base="$base" -v adapter="$(stat -c %s "${adapters[1]}")" '
    $1 == "base" { over = $2 - base; if (over > 24e6) { print "resident memory is " over " bytes over the base"; exit 1 } }
    $1 == "adapter 1" { first = $2 }
    $1 == "adapter 2" { more = $2 - first; if (more > adapter + 65536) { print "the second adapter added " more; exit 1 } }
    END { print "resident over the mapped base: " over " bytes; second adapter added " more " of " adapter }
' "$work/resident.tsv"

# Serve, learn four corrections, swap, serve: the answer changes, the base is never reloaded.
cargo run -q --release --features cli --example personalize -- "$work/base.lrk"
