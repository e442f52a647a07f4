#!/usr/bin/env bash
# Builds the wheel and says where it is and how large: `bash python/build.sh` (from anywhere). For this machine's Linux; for others
# of the same kind build in a manylinux container, or with zig: `pip install maturin[zig]`, then MATURIN="--zig --compatibility
# manylinux2014" bash python/build.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(bash tests/venv.sh wheel python/requirements.txt)
if [ -z "$venv" ]; then
    echo "SKIPPED: the wheel: the packages of python/requirements.txt could not be installed"
    exit 0
fi
# One target folder with the crate: what is compiled for the command line is compiled for the wheel.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
out="$CARGO_TARGET_DIR/wheels"
rm -rf "$out"
"$venv/bin/maturin" build --quiet --release --locked --manifest-path python/Cargo.toml --interpreter "$venv/bin/python" \
    --out "$out" ${MATURIN:---compatibility linux}
wheel=$(echo "$out"/lowrank-*.whl)
bytes=$(stat -c %s "$wheel")
echo "$wheel: $bytes bytes"
[ "$bytes" -lt 12000000 ] || { echo "FAIL: the wheel has $bytes bytes, less than 12,000,000 was promised" >&2; exit 1; }
