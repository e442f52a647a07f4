#!/usr/bin/env bash
# Links sizes/ (the firmware's program without a processor and without a model) for every target of README.md's table and says how
# large it is; nothing is run. Fails when code or static RAM is more than 5 % larger than the table says.
# Needs Debian's rustc-web, cargo-web, rust-web-src and lld-19: installs them as root, else says SKIPPED and ends with status 0.
# OPT_LEVEL=z (default s) is the size to optimize for.
set -euo pipefail
cd "$(dirname "$0")"
build=$(realpath -m "${CARGO_TARGET_DIR:-../../target}/sizes")
level=${OPT_LEVEL:-s}
case $level in
    s) column=3 ;; # of the table, the target's name is column 2
    z) column=4 ;;
    *) echo "OPT_LEVEL is s or z" >&2; exit 2 ;;
esac
targets=(thumbv7em-none-eabihf thumbv6m-none-eabi riscv32imac-unknown-none-elf wasm32-unknown-unknown aarch64-unknown-none)
mkdir -p "$build"

packages=(rustc-web cargo-web rust-web-src lld-19)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
    { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; } || { echo "SKIPPED: sizes: it takes ${packages[*]}"; exit 0; }
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
        { echo "SKIPPED: sizes: cannot install ${packages[*]}"; exit 0; }
fi

# The sections that one of lld's maps lists, as "name size" with the size in hexadecimal: those of an ELF image that have an address,
# the data segments of a WebAssembly module. What sections consist of is indented further.
sections() {
    awk '/^ *[0-9a-f]+ +[0-9a-f]+ +[0-9a-f]+ +[0-9]+ [^ ]/ && $1 !~ /^0+$/ && NF == 5 { print $5, $3 }
         /^ *[0-9a-f]+ +[0-9a-f]+ +[0-9a-f]+ \.[a-z]/ && NF == 4 { print $4, $3 }' "$1"
}

# What README.md's table says of a target, in that column.
table() { awk -F'|' -v target="\`$1\`" -v column="$2" 'index($2, target) { gsub(/[^0-9]/, "", $column); print $column; exit }' README.md; }

failed=0
check() { # target, what, bytes, column of the table
    local said
    said=$(table "$1" "$4")
    if [ -z "$said" ]; then
        echo "FAIL: README.md's table does not say the $2 of $1"
        failed=1
    elif [ $(($3 * 100)) -gt $((said * 105)) ]; then
        echo "FAIL: the $2 of $1 is $3 bytes, README.md's table says $said: more than 5 % larger; make it smaller or update the table"
        failed=1
    elif [ $(($3 * 2)) -lt "$said" ]; then
        echo "FAIL: the $2 of $1 is $3 bytes, README.md's table says $said: something was not linked, or the table is out of date"
        failed=1
    fi
}

export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_OPT_LEVEL=$level
for target in "${targets[@]}"; do
    linker=ld.lld module=
    [[ $target != wasm32* ]] || { linker=wasm-ld module=$build/$target/release/lowrank-sizes.wasm; }
    map=$build/$target-$level.map
    RUSTFLAGS="-C linker=$linker-19 -C linker-flavor=$linker -C link-arg=-Map=$map" \
        /usr/bin/cargo build --quiet --release --locked -Zbuild-std=core -Zbuild-std-features=optimize_for_size \
        --manifest-path sizes/Cargo.toml --target "$target" --target-dir "$build"
    code=0 ram=0
    while read -r name size; do
        case $name in
            .ARM.ex* | .eh_frame*) ;; # how to unwind, which nobody does
            .bss*) ram=$((ram + 16#$size)) ;;
            .data*) code=$((code + 16#$size)) ram=$((ram + 16#$size)) ;;
            *) code=$((code + 16#$size)) ram=$((ram + (${#module} ? 16#$size : 0))) ;; # a module's constants lie in its memory
        esac
    done < <(sections "$map")
    # A module is stored as it is.
    [ -z "$module" ] || code=$(wc -c <"$module")
    echo "$target: code $code bytes, static RAM $ram bytes (opt-level $level)"
    check "$target" code "$code" "$column"
    check "$target" "static RAM" "$ram" 5
done
exit "$failed"
