#!/usr/bin/env bash
# Builds the fuzz targets once and runs each for SECONDS, or those that are named:
#
#     fuzz/run.sh SECONDS [TARGET…]
#
# Prints a line for each target. What a target fails on is kept in fuzz/artifacts and named on
# stderr; the other targets are still run, and the exit status is 1. Works with the stable compiler
# (RUSTC_BOOTSTRAP=1 lets it take the sanitizer's flag), needs a C++ compiler for libFuzzer, no
# cargo-fuzz.
set -euo pipefail
all=(archive adapter gguf gguf_lora safetensors peft tokenizer template data init capi)
usage="usage: fuzz/run.sh SECONDS [TARGET…]; the targets: ${all[*]}"
seconds=${1:-}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "$usage" >&2; exit 2; }
shift
[ $# -gt 0 ] || set -- "${all[@]}"
for target; do
    [[ " ${all[*]} " == *" $target "* ]] || { echo "no target '$target'; $usage" >&2; exit 2; }
done
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=target
export RUSTFLAGS="-Zsanitizer=address -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
# A target triple, so that build scripts are not instrumented.
cargo build --quiet --release --target "$host"

# A number of libFuzzer's last statistics.
number() { sed -n "s/^stat::$1: *//p" "artifacts/$target.log"; }

export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=0
failed=0
for target; do
    mkdir -p "artifacts/$target" "corpus/$target"
    words=()
    [ ! -f "dicts/$target" ] || words=("-dict=dicts/$target")
    # The timeout is for one input.
    if "target/$host/release/$target" "corpus/$target" "seeds/$target" ${words[@]+"${words[@]}"} \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=131072 \
        -artifact_prefix="artifacts/$target/" -verbosity=0 -print_final_stats=1 \
        >"artifacts/$target.log" 2>&1; then
        printf '%-12s %8s inputs in %s s, at most %s MB: nothing found\n' "$target" \
            "$(number number_of_executed_units)" "$seconds" "$(number peak_rss_mb)"
    else
        failed=1
        grep -aE -A1 "panicked|^SUMMARY|^==[0-9]+== ?ERROR" "artifacts/$target.log" >&2 || true
        found=$(sed -n 's/.*Test unit written to //p' "artifacts/$target.log" | tail -1)
        echo "$target: failed on fuzz/${found:-artifacts/$target.log}" >&2
    fi
done
exit "$failed"
