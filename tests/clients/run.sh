#!/usr/bin/env bash
# `lowrank serve` against the clients that people have. Needs what examples/quickstart.sh leaves, and runs it if need be.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$(bash tests/venv.sh clients tests/clients/requirements.txt)
if [ -z "$venv" ]; then
    echo "SKIPPED: HTTP clients: the packages of tests/clients/requirements.txt could not be installed"
    exit 0
fi
target="${CARGO_TARGET_DIR:-target}"
[ -f "$target/quickstart/pirate.lrk" ] || bash examples/quickstart.sh >/dev/null
cargo build -q --features cli,serve
bash tests/minilm_model.sh "$target/minilm"
encoder="$target/minilm/served.lrk"
[ -f "$encoder" ] || "$target/debug/lowrank" import "$target/minilm/model" -o "$encoder" >/dev/null 2>&1
"$venv/bin/python" tests/clients/clients.py "$target/debug/lowrank" "$target/quickstart" "$encoder"
python3 tests/clients/bad.py "$target/debug/lowrank" "$target/quickstart/base.lrk" "$target/quickstart/pirate.lrk" 25
