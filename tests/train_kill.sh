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

train() { # OUTPUT
    "$lowrank" train --base "$work/base.lrk" --data "$work/data.jsonl" --method dora --rank 4 --dropout 0.1 --learning-rate 1e-3 \
        --epochs 60 --batch-size 4 --max-length 48 --checkpoint-every 1 --resume -o "$1" >/dev/null 2>"$work/log"
}

train "$work/whole.lrk"
killed=0
RANDOM=7
while [ "$killed" -lt "$kills" ]; do
    train "$work/disturbed.lrk" & run=$!
    sleep "0.0$((RANDOM % 9))$((RANDOM % 10))"
    if kill -9 "$run" 2>/dev/null; then killed=$((killed + 1)); fi
    # `train` runs in a subshell: its child has to die with it.
    pkill -9 -f "$work/disturbed.lrk" 2>/dev/null || true
    wait "$run" 2>/dev/null || true
    # A finished run has no checkpoint any more: what it wrote must be whole, and the next round starts anew.
    if [ -e "$work/disturbed.lrk" ]; then
        cmp "$work/whole.lrk" "$work/disturbed.lrk"
        rm "$work/disturbed.lrk"
    fi
    if [ -e "$work/disturbed.lrk.checkpoint" ]; then
        "$lowrank" verify "$work/disturbed.lrk.checkpoint" >/dev/null
    fi
done
train "$work/disturbed.lrk"
cmp "$work/whole.lrk" "$work/disturbed.lrk"
echo "killed $killed times, always resumed; the adapter is byte for byte that of an undisturbed run"
