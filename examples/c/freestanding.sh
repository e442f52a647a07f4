#!/usr/bin/env bash
# Builds liblowrank.a for a Cortex-M4F without std, links freestanding.c with it as C99 and as C++17, runs both under QEMU and compares
# the tokens with the host's. Called by the Makefile with the build folder. Needs Debian's rustc-web, cargo-web, rust-web-src,
# gcc-arm-none-eabi and qemu-system-arm: installs them as root, else says SKIPPED and ends with status 0.
set -euo pipefail
build=$1
root=../..
target=thumbv7em-none-eabihf

missing=()
for program in /usr/bin/rustc /usr/bin/cargo arm-none-eabi-gcc arm-none-eabi-g++ qemu-system-arm; do
    command -v "$program" >/dev/null 2>&1 || missing+=("$program")
done
[ -e "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core" ] || missing+=(rust-web-src)
if [ ${#missing[@]} -gt 0 ]; then
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >/dev/null 2>&1 || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            rustc-web cargo-web rust-web-src gcc-arm-none-eabi qemu-system-arm >/dev/null 2>&1 ||
            { echo "SKIPPED: freestanding C: the packages for ${missing[*]} are not to be had"; exit 0; }
    else
        echo "SKIPPED: freestanding C: missing ${missing[*]} (Debian: rustc-web cargo-web rust-web-src gcc-arm-none-eabi qemu-system-arm)"
        exit 0
    fi
fi

RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_OPT_LEVEL=$OPT_LEVEL CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
    /usr/bin/cargo rustc --quiet --release -Zbuild-std=core -Zbuild-std-features=optimize_for_size --target $target \
    --target-dir "$CARGO_TARGET_DIR/freestanding" --manifest-path $root/Cargo.toml \
    --lib --no-default-features --features panic-handler --crate-type staticlib
library=$CARGO_TARGET_DIR/freestanding/$target/release/liblowrank.a

# As in the hosted library: of our own, nothing but lowrank_ is strong and unmangled. (The panic handler has a name of Rust's.)
if arm-none-eabi-nm --defined-only -g "$library" 2>/dev/null |
    awk '/:$/ { ours = ($0 ~ /^lowrank/); next } ours && $2 ~ /[TDBR]/ && $3 !~ /^(_ZN|_R|lowrank_)/ { print $3 }' |
    grep -vE '^(rust_begin_unwind|__rustc.*)$'; then
    echo "FAIL: symbols of ours besides lowrank_*"
    exit 1
fi

# The array that the command line says is right.
bytes=$("$CARGO_TARGET_DIR/debug/lowrank" memory --base $root/assets/tiny.lrk --adapter $root/assets/tiny-notes.lrk --context 128 \
    --prefill-chunk 8 --firmware | sed -n 's/^C .*workspace\[\([0-9]*\)\].*/\1/p')
machine=(-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16)
flags=("${machine[@]}" -Wall -Wextra -Werror -Os -g -ffreestanding -ffunction-sections -fdata-sections -I$root/include
    "-DWORKSPACE_BYTES=$bytes")
for language in c99 c++17; do
    case $language in
    c99) compiler=(arm-none-eabi-gcc -x c -std=c99) ;;
    *) compiler=(arm-none-eabi-g++ -x c++ -std=c++17 -fno-exceptions -fno-rtti) ;;
    esac
    image=$build/freestanding-$language.elf
    for source in freestanding task; do
        "${compiler[@]}" "${flags[@]}" -c $source.c -o "$build/$source-$language.o"
    done
    arm-none-eabi-gcc "${machine[@]}" -Wa,-I$root/assets -c archives.S -o "$build/archives.o"
    arm-none-eabi-gcc "${machine[@]}" -nostdlib -static -Wl,--gc-sections -Wl,-z,noexecstack -Wl,-T,link.ld \
        "$build/freestanding-$language.o" "$build/task-$language.o" "$build/archives.o" "$library" -lgcc -o "$image"
    model=$(cat $root/assets/tiny*.lrk | wc -c)
    read -r text data bss < <(arm-none-eabi-size "$image" | awk 'NR == 2 { print $1, $2, $3 }')
    echo "freestanding $language: code and constants $((text + data - model)) bytes (opt-level $OPT_LEVEL), static RAM $((data + bss)) bytes"
    timeout 240 qemu-system-arm -M mps2-an386 -nographic -semihosting -kernel "$image" </dev/null >"$build/freestanding-$language.log" 2>&1 ||
        { cat "$build/freestanding-$language.log"; echo "FAIL: the image ended with an error"; exit 1; }
    # Semihosting writes beside QEMU's own messages.
    grep '^\[' "$build/freestanding-$language.log" | cmp - "$build/expected"
done
echo "freestanding: C99 and C++17 give the host's tokens"
