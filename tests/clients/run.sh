#!/usr/bin/env bash
# `lowrank serve` against the clients that people have. Installs the pinned Python packages once, into a cache directory; with
# --install that is all it does. Needs what examples/quickstart.sh leaves.
set -euo pipefail
cd "$(dirname "$0")/../.."
requirements=tests/clients/requirements.txt
key=$(sha256sum "$requirements" | cut -c1-12)
venv="${XDG_CACHE_HOME:-$HOME/.cache}/lowrank/clients-$key"
if [ ! -f "$venv/ready" ]; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install -q -r "$requirements"; }; then
        echo "SKIPPED: HTTP clients: the packages of $requirements could not be installed"
        exit 0
    fi
    touch "$venv/ready"
fi
if [ "${1:-}" = --install ]; then exit 0; fi
target="${CARGO_TARGET_DIR:-target}"
[ -f "$target/quickstart/pirate.lrk" ] || bash examples/quickstart.sh >/dev/null
cargo build -q --features cli,serve
"$venv/bin/python" tests/clients/clients.py "$target/debug/lowrank" "$target/quickstart"
