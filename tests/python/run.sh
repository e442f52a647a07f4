#!/usr/bin/env bash
# What PEFT, bitsandbytes and transformers say of our exports. Installs the pinned Python packages once, into a cache directory;
# with --install that is all it does.
set -euo pipefail
cd "$(dirname "$0")/../.."
requirements=tests/python/requirements.txt
key=$(sha256sum "$requirements" | cut -c1-12)
venv="${XDG_CACHE_HOME:-$HOME/.cache}/lowrank/python-$key"
if [ ! -f "$venv/ready" ]; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install -q -r "$requirements"; }; then
        echo "SKIPPED: cross-checks with Python: the packages of $requirements could not be installed"
        exit 0
    fi
    touch "$venv/ready"
fi
if [ "${1:-}" = --install ]; then exit 0; fi
cargo build -q --release --features cli
for check in tests/python/*.py; do
    echo "-- $check"
    "$venv/bin/python" "$check" "${CARGO_TARGET_DIR:-target}/release/lowrank"
done
