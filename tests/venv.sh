#!/usr/bin/env bash
# venv.sh NAME REQUIREMENTS: installs pinned Python packages once, into a cache directory, and prints where; prints nothing if they
# cannot be had.
set -euo pipefail
key=$(sha256sum "$2" | cut -c1-12)
venv="${XDG_CACHE_HOME:-$HOME/.cache}/lowrank/$1-$key"
if [ ! -f "$venv/ready" ]; then
    python3 -m venv "$venv" >&2 && "$venv/bin/pip" install -q -r "$2" >&2 || exit 0
    touch "$venv/ready"
fi
echo "$venv"
