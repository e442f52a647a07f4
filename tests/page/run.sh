#!/usr/bin/env bash
# The page of `lowrank serve` in a browser: over the embedded model, and over SmolLM2 if examples/quickstart.sh left it.
# Needs Debian's chromium, Node and npm's playwright-core: installs the first as root and the last into a cache directory,
# says SKIPPED without them.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { printf 'SKIPPED: the page in a browser: %s\n' "$1"; exit 0; }
have() { command -v "$1" >/dev/null 2>&1; }
if ! have chromium; then
    have apt-get && [ "$(id -u)" = 0 ] || skip "it takes Debian's chromium"
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 ||
        skip "chromium cannot be installed"
fi
have node && have npm || skip "it takes Node and npm"

# Once for each list of packages.
key=$(sha256sum tests/page/package-lock.json | cut -c1-12)
packages="${XDG_CACHE_HOME:-$HOME/.cache}/lowrank/page-$key"
if [ ! -f "$packages/ready" ]; then
    mkdir -p "$packages"
    cp tests/page/package.json tests/page/package-lock.json "$packages"
    (cd "$packages" && npm ci --silent --ignore-scripts >/dev/null 2>&1) || skip "playwright-core cannot be installed"
    touch "$packages/ready"
fi

target="${CARGO_TARGET_DIR:-target}"
cargo build -q --features cli,serve
CHROMIUM="$(command -v chromium)" PACKAGES="$packages/" node tests/page/page.mjs "$target/debug/lowrank" "$target/quickstart"
