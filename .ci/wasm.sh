#!/usr/bin/env bash
# The simd128 kernels, built for wasm32 and compared with f64 and the scalar kernels in Node.
# Needs Node, and Debian's rustc-web, cargo-web, rust-web-src and lld-19: installs the packages as root, says SKIPPED without them.
set -euo pipefail
cd "$(dirname "$0")/../tests/wasm"
build=${CARGO_TARGET_DIR:-../../target}/wasm
target=wasm32-unknown-unknown

skip() { printf 'SKIPPED: simd128 in Node: %s\n' "$1"; exit 0; }
packages=(rustc-web cargo-web rust-web-src lld-19)
command -v node >/dev/null 2>&1 || packages+=(nodejs)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || skip "it takes ${packages[*]}"
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
        skip "cannot install ${packages[*]}"
fi

export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-C target-feature=+simd128 -C linker=wasm-ld-19 -C linker-flavor=wasm-ld"
/usr/bin/cargo build --quiet --release --locked -Zbuild-std=core,alloc --target $target --target-dir "$build"
node run.mjs "$build/$target/release/lowrank_wasm_kernels.wasm"
