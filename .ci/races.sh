#!/usr/bin/env bash
# ThreadSanitizer on what threads share: the executor, shares of work, SharedSet. Needs a nightly toolchain of rustup with rust-src,
# which it adds where it can; says SKIPPED without them.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { printf 'SKIPPED: %s\n' "$1"; exit 0; }
command -v rustup >/dev/null && rustup toolchain list | grep -q '^nightly' || skip "it takes rustup's nightly toolchain"
rustup component list --installed --toolchain nightly | grep -q '^rust-src' ||
    timeout 120 rustup component add --toolchain nightly rust-src >/dev/null 2>&1 || skip "cannot add rust-src to nightly"

export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
triple="$(rustc +nightly -vV | sed -n 's/^host: //p')"
target="${CARGO_TARGET_DIR:-target}"

# The standard library is built with it too: its locks order what they guard.
RUSTFLAGS=-Zsanitizer=thread TSAN_OPTIONS=halt_on_error=1 CARGO_TARGET_DIR="$target/tsan" \
    cargo +nightly run --quiet --manifest-path tests/races/Cargo.toml -Zbuild-std --target "$triple"
