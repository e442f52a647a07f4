#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh virtual environment and checks it there: tests, examples, types. Compares with the
# command line in target/release, which it builds if it must.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
tools=$(bash tests/venv.sh wheel python/requirements.txt)
if [ -z "$tools" ]; then
    echo "SKIPPED: the wheel: the packages of python/requirements.txt could not be installed"
    exit 0
fi
if [ "${1:-}" = --install ]; then exit 0; fi
bash python/build.sh
[ -n "${LOWRANK_CLI:-}" ] || cargo build -q --release --features cli
export LOWRANK_CLI="${LOWRANK_CLI:-$target/release/lowrank}"

# Only the wheel and what it asks for: numpy. pytest is lent by the tools.
fresh="$target/wheel-venv"
rm -rf "$fresh"
python3 -m venv "$fresh"
"$fresh/bin/pip" install -q "$target"/wheels/lowrank-*.whl
"$fresh/bin/python" -c 'import lowrank, sys; assert "torch" not in sys.modules and "peft" not in sys.modules'
lent=$("$tools/bin/python" -c 'import pytest, pathlib; print(pathlib.Path(pytest.__file__).parent.parent)')
cd python/tests
PYTHONPATH="$lent" "$fresh/bin/python" -P -m pytest -q -p no:cacheprovider
cd ../..

echo "-- types"
types="$target/wheel-types"
rm -rf "$types"
"$tools/bin/python" -m zipfile -e "$target"/wheels/lowrank-*.whl "$types"
export MYPYPATH="$types" PYTHONPATH="$types"
"$tools/bin/mypy" --config-file python/pyproject.toml -p lowrank
"$tools/bin/mypy" --config-file python/pyproject.toml python/tests examples/python benches/python.py
"$tools/bin/stubtest" lowrank --mypy-config-file python/pyproject.toml
"$tools/bin/basedpyright" --level error --pythonpath "$tools/bin/python" --project python
unset MYPYPATH PYTHONPATH

echo "-- the example"
"$fresh/bin/python" examples/python/quickstart.py

# PEFT's side is there where the cross-checks have installed it.
peft=$(bash tests/venv.sh python tests/python/requirements.txt)
if [ -z "$peft" ]; then
    echo "SKIPPED: PEFT models: the packages of tests/python/requirements.txt could not be installed"
    exit 0
fi
site=$(echo "$fresh"/lib/python3*/site-packages)
cd python/tests
PYTHONPATH="$site:$lent" "$peft/bin/python" -P -m pytest -q -p no:cacheprovider test_peft.py
