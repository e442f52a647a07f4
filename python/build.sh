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
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# No folder of the machine that builds it is in the wheel.
home="${CARGO_HOME:-$HOME/.cargo}"
export CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$PWD=lowrank"$'\x1f'"--remap-path-prefix=$home=cargo"
out="$CARGO_TARGET_DIR/wheels"
rm -rf "$out"
"$venv/bin/maturin" build --quiet --release --locked --manifest-path python/Cargo.toml --interpreter "$venv/bin/python" \
    --out "$out" ${MATURIN:---compatibility linux}
wheel=$(echo "$out"/lowrank-*.whl)
bytes=$(stat -c %s "$wheel")
echo "$wheel: $bytes bytes"
if "$venv/bin/python" -m zipfile -e "$wheel" "$out/content" && grep -rqF -e "$PWD" -e "$home" "$out/content"; then
    echo "FAIL: the wheel names a folder of this machine" >&2
    exit 1
fi
rm -rf "$out/content"
[ "$bytes" -lt 12000000 ] || { echo "FAIL: the wheel has $bytes bytes, less than 12,000,000 was promised" >&2; exit 1; }
