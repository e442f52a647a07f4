#!/usr/bin/env bash
# Runs the embedded model (../../assets) on the host, builds the firmware around it, runs that under QEMU, and compares the tokens.
# Needs Debian's rustc-web, cargo-web, rust-web-src, gcc-arm-none-eabi and qemu-system-arm: installs them as root, else says
# SKIPPED and ends with status 0. OPT_LEVEL=z (default s) is the size to optimize for. Output: flash, RAM, ticks, PASS or FAIL.
set -euo pipefail
cd "$(dirname "$0")"
target=thumbv7em-none-eabihf
host_target=${CARGO_TARGET_DIR:-../../target}
build=$host_target/firmware
mkdir -p "$build" expected

missing=()
for program in /usr/bin/rustc /usr/bin/cargo arm-none-eabi-ld arm-none-eabi-size qemu-system-arm; do
    command -v "$program" >/dev/null 2>&1 || missing+=("$program")
done
[ -e "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core" ] || missing+=(rust-web-src)
if [ ${#missing[@]} -gt 0 ]; then
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >/dev/null 2>&1 || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            rustc-web cargo-web rust-web-src gcc-arm-none-eabi qemu-system-arm >/dev/null 2>&1 ||
            { echo "SKIPPED: firmware: the packages for ${missing[*]} are not to be had"; exit 0; }
    else
        echo "SKIPPED: firmware: missing ${missing[*]} (Debian: rustc-web cargo-web rust-web-src gcc-arm-none-eabi qemu-system-arm)"
        exit 0
    fi
fi

echo "== host: its texts and tokens, with the scalar kernels and with the best ones"
host() { cargo run --quiet --release --manifest-path ../../Cargo.toml --example tiny -- "$1"; }
LOWRANK_ISA=scalar host expected >"$build/scalar"
host "$build/best" >"$build/best.out" 2>/dev/null
if ! cmp -s <(sed 's/ logits .*//' "$build/scalar") <(sed 's/ logits .*//' "$build/best.out"); then
    echo "FAIL: the host's kernels do not agree on the tokens"
    exit 1
fi

echo "== firmware: build for $target"
export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-C link-arg=-Tlink.x -C linker=arm-none-eabi-ld -C linker-flavor=ld"
export CARGO_PROFILE_RELEASE_OPT_LEVEL=${OPT_LEVEL:-s}
# What the image says of a panic's place must not make it larger where the sources lie deeper.
CARGO_PROFILE_RELEASE_TRIM_PATHS=object /usr/bin/cargo build --quiet --release --locked \
    -Ztrim-paths -Zbuild-std=core -Zbuild-std-features=optimize_for_size --target $target --target-dir "$build"
image=$build/$target/release/lowrank-firmware

# Names of crates in the graph; alloc is not among them because build-std made core alone.
if /usr/bin/cargo tree --locked --target $target --prefix none -e normal -f '{p} {f}' | grep -E 'alloc|\bstd\b'; then
    echo "FAIL: the dependency graph has a feature or crate named alloc or std"
    exit 1
fi
if arm-none-eabi-nm "$image" | grep -E '__rust_alloc|__rdl_alloc|\bmalloc\b'; then
    echo "FAIL: the image allocates"
    exit 1
fi

model=$(cat ../../assets/*.lrk | wc -c)
read -r text data bss < <(arm-none-eabi-size "$image" | awk 'NR == 2 { print $1, $2, $3 }')
echo "flash $((text + data)) bytes, of which model $model, code and constants $((text + data - model)) (opt-level ${OPT_LEVEL:-s})"
# The README's table for this level; 5 % is what a change may add without saying so.
table=$(awk -F'|' -v level="${OPT_LEVEL:-s}" \
    '$2 ~ "^ *" level " *$" && $3 ~ /optimize_for_size/ { gsub(/[^0-9]/, "", $4); print $4; exit }' README.md)
code=$((text + data - model))
if [ -n "$table" ] && [ $((code * 100)) -gt $((table * 105)) ]; then
    echo "FAIL: the code has $code bytes, README.md's table says $table: more than 5 % larger; make it smaller or update the table"
    exit 1
fi
echo "static RAM $((data + bss)) bytes (the linker refuses more than 128 KiB)"
if [ $((text + data - model)) -gt 65536 ]; then
    echo "FAIL: more than 64 KiB of code"
    exit 1
fi

echo "== firmware: run (one instruction is one nanosecond: -icount shift=0; SysTick counts at 25 MHz, 40 instructions a tick)"
timeout 240 qemu-system-arm -M mps2-an386 -nographic -semihosting -icount shift=0 -kernel "$image" </dev/null 2>&1 | tee "$build/run.out"

# A swap copies nothing: it takes as long to the adapter of 176 KB as to the one of 90 KB, but for a tick at its ends.
read -r mean most < <(sed -n 's/^SysTick: swap \([0-9]*\) ticks (mean of 2, most \([0-9]*\)).*/\1 \2/p' "$build/run.out") || true
if [ -z "${most:-}" ] || [ $((most - mean)) -gt 1 ]; then
    echo "FAIL: swaps to adapters of rank 4 and 8 take ${mean:-?} ticks in the mean, ${most:-?} at most: they depend on the size"
    exit 1
fi
echo "swap: $((mean * 40)) instructions to the adapter of rank 4 ($(wc -c <../../assets/tiny-pirate.lrk) bytes)" \
    "as to that of rank 8 ($(wc -c <../../assets/tiny-notes.lrk) bytes)"

echo "== fast products with the DSP extension, against plain loops on the same processor"
timeout 240 qemu-system-arm -M mps2-an386 -nographic -semihosting -icount shift=0 \
    -kernel "$build/$target/release/products" </dev/null
