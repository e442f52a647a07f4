#!/usr/bin/env bash
# What PEFT, bitsandbytes and transformers say of our exports and token ids. With --install it only installs the pinned Python
# packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$(bash tests/venv.sh python tests/python/requirements.txt)
if [ -z "$venv" ]; then
    echo "SKIPPED: cross-checks with Python: the packages of tests/python/requirements.txt could not be installed"
    exit 0
fi
if [ "${1:-}" = --install ]; then exit 0; fi
cargo build -q --release --features cli
for check in tests/python/*.py; do
    echo "-- $check"
    "$venv/bin/python" "$check" "${CARGO_TARGET_DIR:-target}/release/lowrank"
done
