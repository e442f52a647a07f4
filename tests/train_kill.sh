#!/usr/bin/env bash
# Kills a training run with SIGKILL at random moments, 50 times by default: it must go on each time from a whole checkpoint and end
# with the very bytes of a run that was never disturbed. Usage: tests/train_kill.sh [LOWRANK] [KILLS]
set -euo pipefail
cd "$(dirname "$0")/.."
lowrank=${1:-target/release/lowrank}
kills=${2:-50}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$lowrank" import tests/golden/gguf/tiny-llama.gguf -o "$work/base.lrk" 2>/dev/null >/dev/null
for i in $(seq 1 40); do printf '{"text": "line %s says something, and then %s"}\n' "$i" "$((i * 7 % 13))"; done > "$work/data.jsonl"

run=("$lowrank" train --base "$work/base.lrk" --data "$work/data.jsonl" --method dora --rank 4 --dropout 0.1 --learning-rate 1e-3
    --epochs 60 --batch-size 4 --max-length 48 --checkpoint-every 1 --resume)

# The adapter's name is that of its file: two folders, one name.
mkdir "$work/whole" "$work/disturbed"
"${run[@]}" -o "$work/whole/a.lrk" >"$work/log" 2>&1
killed=0
RANDOM=7
while [ "$killed" -lt "$kills" ]; do
    "${run[@]}" -o "$work/disturbed/a.lrk" >"$work/log" 2>&1 & process=$!
    sleep "0.$((RANDOM % 3))$((RANDOM % 10))$((RANDOM % 10))"
    if kill -9 "$process" 2>/dev/null; then killed=$((killed + 1)); fi
    wait "$process" 2>/dev/null || true
    # A finished run has no checkpoint any more: what it wrote must be whole, and the next round starts anew.
    if [ -e "$work/disturbed/a.lrk" ]; then
        cmp "$work/whole/a.lrk" "$work/disturbed/a.lrk"
        rm "$work/disturbed/a.lrk"
    fi
    if [ -e "$work/disturbed/a.lrk.checkpoint" ]; then
        "$lowrank" verify "$work/disturbed/a.lrk.checkpoint" >/dev/null
    fi
done
"${run[@]}" -o "$work/disturbed/a.lrk" >"$work/log" 2>&1
cmp "$work/whole/a.lrk" "$work/disturbed/a.lrk"
# Temporary files of killed writers went with the next checkpoint.
[ -z "$(find "$work" -name '.lowrank-*')" ]
echo "killed $killed times, always resumed; the adapter is byte for byte that of an undisturbed run"
