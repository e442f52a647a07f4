#!/usr/bin/env bash
# Makes every .ptx here of the .cu beside it, with Debian's clang-19: `bash ptx/build.sh`. `bash ptx/build.sh --check` makes
# them elsewhere and compares: what is committed is what the sources say. No CUDA toolkit is needed.
set -euo pipefail
cd "$(dirname "$0")"
clang="${CLANG:-clang-19}"
command -v "$clang" >/dev/null || { echo "SKIPPED: $clang is not installed (apt-get install --no-install-recommends clang-19)"; exit 0; }
out=.
[ "${1:-}" = --check ] && { out="$(mktemp -d)"; trap 'rm -rf "$out"' EXIT; }
for source in *.cu; do
    # PTX 7.0 for sm_75: every driver since CUDA 11.0 takes it, for every card since Turing.
    "$clang" -x cuda --cuda-device-only --cuda-gpu-arch=sm_75 --cuda-feature=+ptx70 -nocudainc -nocudalib -O3 -std=c++17 \
        -Wall -Wextra -Werror -S "$source" -o "$out/${source%.cu}.ptx"
    [ "$out" = . ] || cmp "${source%.cu}.ptx" "$out/${source%.cu}.ptx"
done
echo "$(ls ./*.cu | wc -l) files of PTX"
