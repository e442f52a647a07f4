#!/usr/bin/env bash
# The NEON kernels, built for 64-bit Arm Linux and run under qemu: on its largest CPU, where the best table must be `neondot`
# and both are compared with the scalar one, and on a Cortex-A53, where it must be `neon`. Arguments replace the first tests.
# Needs Debian and root: Debian's rustc and cargo, their arm64 library, a cross linker and qemu. Says SKIPPED without them.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { printf 'SKIPPED: NEON under qemu: %s\n' "$1"; exit 0; }
triple=aarch64-unknown-linux-gnu
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/neon}"
mkdir -p "$CARGO_TARGET_DIR"
work="$(cd "$CARGO_TARGET_DIR" && pwd)"

command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || skip "it takes apt-get and root"
packages=(rustc-web cargo-web gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
        skip "cannot install ${packages[*]}"
fi

# A sysroot with the host's library and the target's, of the compiler's version.
version="$(/usr/bin/rustc --version)"
sysroot="$work/sysroot"
if [ ! -d "$sysroot/lib/rustlib/$triple" ] || [ "$(cat "$sysroot/version" 2>/dev/null)" != "$version" ]; then
    fetched="$work/arm64"
    rm -rf "$fetched" "$sysroot" && mkdir -p "$fetched" "$sysroot/lib"
    dpkg --add-architecture arm64
    apt-get update -qq >/dev/null 2>&1 || true
    package="libstd-rust-web-dev:arm64=$(dpkg-query -W -f '${Version}' rustc-web)"
    (cd "$fetched" && apt-get download -qq "$package" >/dev/null 2>&1) || skip "cannot fetch $package"
    dpkg -x "$fetched"/libstd-rust-web-dev_*.deb "$fetched/unpacked"
    cp -r /usr/lib/rustlib "$sysroot/lib/"
    cp -r "$fetched/unpacked/usr/lib/rustlib/$triple" "$sysroot/lib/rustlib/"
    printf '%s' "$version" >"$sysroot/version"
fi

# What runs under qemu is worth its optimization.
export CARGO_PROFILE_TEST_OPT_LEVEL=3
export RUSTC=/usr/bin/rustc RUSTFLAGS="--sysroot $sysroot -C linker=aarch64-linux-gnu-gcc"
on() { # CPU, arguments of cargo test
    local runner="qemu-aarch64 -cpu $1 -L /usr/aarch64-linux-gnu"
    shift
    # What is tested are the kernels, and they are optimized; all that tests need besides is built sooner than it is waited for.
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$runner" LOWRANK_TEST_RUNNER="$runner" \
        /usr/bin/cargo test --config 'profile.dev.package."*".opt-level = 0' --target "$triple" --no-default-features --features import "$@"
}
expect() { # CPU, table
    local said
    said="$(on "$1" --test kernels -- --exact --nocapture child_prints_the_table_in_use)"
    if ! grep -qF "table in use: $2." <<<"$said"; then
        printf '%s\nFAIL: the table on %s is not %s\n' "$said" "$1" "$2"
        exit 1
    fi
    printf 'table in use: %s\n' "$2"
}

printf '\n== NEON with dot products\n'
expect max neondot
if [ $# -gt 0 ]; then on max "$@"; else on max --test kernels --test golden_llama; fi

printf '\n== NEON without them\n'
expect cortex-a53 neon
on cortex-a53 --test kernels -- forced detection fast_products_of_many_vectors products_of_many_vectors integers
LOWRANK_ISA=neon on max --test golden_llama
