#!/usr/bin/env bash
# How many instructions decoding a token takes, counted by callgrind, so that noise does not matter:
#   benches/instructions.sh BASE.lrk [ADAPTER.lrk]...
# A row for a build that knows no adapters (`--cfg lowrank_adapters="none"`), a row for none attached, and a row per adapter with the
# share it adds to none attached; of the first row, what it lacks. Valgrind knows no AVX-512: the counts are those of the AVX2 table.
# Each figure is the difference between a longer and a shorter run of `lowrank bench`, so that what is not decoding cancels out;
# of an adapter's run, where rounds of base and adapter take turns, the base's own figure is taken away.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 1 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
base=$1
shift
target=${CARGO_TARGET_DIR:-target}
cargo build --release --features cli --quiet
RUSTFLAGS='--cfg lowrank_adapters="none"' cargo build --release --features cli --quiet --target-dir "$target/no-adapters"
lowrank=$target/release/lowrank
short=4 long=8

# The instructions of a run that decodes $1 tokens a round; two rounds, of which the first is the warm-up.
count() {
  local tokens=$1
  shift
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$lowrank" bench --base "$base" "$@" \
    --threads 1 --rounds 1 --prompt-tokens 1 --tokens "$tokens" 2>&1 >/dev/null |
    sed -n 's/^==[0-9]*== Collected : \([0-9]*\).*/\1/p'
}

per_token() {
  echo $((($(count $long "$@") - $(count $short "$@")) / (2 * (long - short))))
}

plain=$(per_token)
without=$(lowrank=$target/no-adapters/release/lowrank && per_token)
printf '%-40s %12s %8s\n' adapter instructions added
added() { awk "BEGIN { printf \"%.3f\", 100 * ($1 / $2 - 1) }"; }
printf '%-40s %12d %7s%%\n' 'none, in a build without' "$without" "$(added "$without" "$plain")"
printf '%-40s %12d\n' none "$plain"
for adapter in "$@"; do
  with=$(($(per_token --adapter "$adapter") - plain))
  printf '%-40s %12d %7s%%\n' "$(basename "$adapter")" "$with" "$(added "$with" "$plain")"
done
