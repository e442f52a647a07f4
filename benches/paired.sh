#!/usr/bin/env bash
# Did a change cost speed? Two builds of the program take turns over the same files; medians and their ratio are printed.
#
#   benches/paired.sh OLD NEW BASE.lrk [ADAPTER.lrk]    decode, prefill, one adapter, training on BASE
#
# LOWRANK_PAIRED_ROUNDS  rounds (7)
# LOWRANK_PAIRED_DATA    a JSONL file of texts to train on (assets/texts/pirate.train.jsonl)
# LOWRANK_PAIRED_ENCODER, LOWRANK_PAIRED_LABELLED    an encoder base and labelled texts: adds training a classifier
# Each program imports nothing: BASE has to open in both.
set -euo pipefail
cd "$(dirname "$0")/.."
usage="usage: benches/paired.sh OLD NEW BASE.lrk [ADAPTER.lrk]"
old="${1:?$usage}" new="${2:?$usage}" base="${3:?$usage}" adapter="${4:-}"
rounds="${LOWRANK_PAIRED_ROUNDS:-7}"
data="${LOWRANK_PAIRED_DATA:-assets/texts/pirate.train.jsonl}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# $1 which of the two, $2 the program and what it measures; the keys of its report after `--`, each with the row it fills.
measure() {
    local side="$1"
    shift
    local command=()
    while [ "$1" != -- ]; do command+=("$1"); shift; done
    shift
    "${command[@]}" >"$work/report.json" 2>"$work/errors" || { tail -3 "$work/errors" >&2; exit 1; }
    for row; do
        python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' \
            "$work/report.json" "${row#*=}" >>"$work/${row%%=*}.$side"
    done
}

for round in $(seq "$rounds"); do
    for side in old new; do
        program="${!side}"
        for threads in 1 2; do
            measure "$side" "$program" bench --base "$base" --threads "$threads" --json -- \
                "decode-$threads=decode_tokens_per_s" "prefill-$threads=prefill_tokens_per_s"
        done
        if [ -n "$adapter" ]; then
            measure "$side" "$program" bench --base "$base" --threads 2 --adapter "$adapter" --json -- \
                "adapter-2=decode_tokens_per_s"
        fi
        train=("$program" train --steps 12 --checkpoint-every 0 --threads 2 --max-length 128 --json -o "$work/adapter.lrk")
        rm -f "$work/adapter.lrk"
        measure "$side" "${train[@]}" --base "$base" --data "$data" --method qlora --batch-size 4 -- train=tokens_per_s
        if [ -n "${LOWRANK_PAIRED_ENCODER:-}" ]; then
            rm -f "$work/adapter.lrk"
            measure "$side" "${train[@]}" --base "$LOWRANK_PAIRED_ENCODER" --data "$LOWRANK_PAIRED_LABELLED" \
                --task classify --method lora --batch-size 32 -- classify=tokens_per_s
        fi
    done
    echo "round $round of $rounds" >&2
done
python3 - "$work" <<'PYTHON'
import pathlib, statistics, sys
work = pathlib.Path(sys.argv[1])
print(f"{'':12} {'old':>10} {'new':>10} {'new/old':>8}   spread of old")
for path in sorted(work.glob("*.old")):
    old, new = ([float(x) for x in p.read_text().split()] for p in (path, path.with_suffix(".new")))
    a, b = statistics.median(old), statistics.median(new)
    print(f"{path.stem:12} {a:10.1f} {b:10.1f} {b / a:8.3f}   {min(old) / a:.3f} to {max(old) / a:.3f}")
PYTHON
