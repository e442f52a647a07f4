#!/usr/bin/env bash
# Builds the fuzz targets and runs each for SECONDS, or those that are named:
#
#     fuzz/run.sh SECONDS [TARGET…]
#
# Works with the stable compiler (RUSTC_BOOTSTRAP=1 lets it take the sanitizer's flag) and needs a
# C++ compiler for libFuzzer, no cargo-fuzz. What crashes a target is kept in fuzz/artifacts.
set -euo pipefail
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET…]}
shift
cd "$(dirname "$0")"
all=(archive adapter gguf gguf_lora safetensors peft tokenizer template data init capi)
targets=("${@:-${all[@]}}")
[ $# -eq 0 ] && targets=("${all[@]}")
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
# A target triple, so that build scripts are not instrumented.
cargo build --release --target "$host"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=0
for target in "${targets[@]}"; do
    mkdir -p "artifacts/$target" "corpus/$target"
    echo "fuzzing $target for $seconds s"
    if ! "target/$host/release/$target" "corpus/$target" "seeds/$target" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=131072 \
        -artifact_prefix="artifacts/$target/" -verbosity=0 -print_final_stats=1 \
        > "artifacts/$target/log" 2>&1; then
        grep -aE "panicked|ERROR|SUMMARY|Test unit" "artifacts/$target/log" || true
        tail -5 "artifacts/$target/log"
        echo "$target: failed; see fuzz/artifacts/$target" >&2
        exit 1
    fi
    grep -a "number_of_executed_units" "artifacts/$target/log" || true
done
