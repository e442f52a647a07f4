#!/usr/bin/env bash
# The promises about encoders that need a real one, all-MiniLM-L6-v2: compares ids and embeddings with those of transformers, then
# embeds through the command line.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
case "$target" in /*) ;; *) target="$PWD/$target" ;; esac
work="$target/minilm"
bash tests/minilm_model.sh "$work"
LOWRANK_MINILM="$work/model" cargo test --release --features cli --test minilm -- --nocapture

cargo build -q --release --features cli
"$target/release/lowrank" import "$work/model" -o "$work/base.lrk"
"$target/release/lowrank" embed --base "$work/base.lrk" --file tests/golden/minilm/texts.jsonl -o "$work/vectors.npy"
python3 - "$work/vectors.npy" <<'PYTHON'
# Sentences 0 and 1 are about knives, 2 and 3 about shares: each is closest to its own.
import struct, sys
data = open(sys.argv[1], "rb").read()
body = data[10 + struct.unpack("<H", data[8:10])[0]:]
rows = [struct.unpack(f"<{384}f", body[i * 1536:][:1536]) for i in range(4)]
cosine = lambda a, b: sum(x * y for x, y in zip(a, b))
table = [[round(cosine(a, b), 3) for b in rows] for a in rows]
print("cosines of knives, knives, shares, shares:", *table, sep="\n")
assert table[0][1] > max(table[0][2:]) and table[2][3] > max(table[2][:2]) and table[2][3] > 0.5
PYTHON
