"""Every dependency's licence is one that deny.toml allows. What cargo-deny checks too, for machines that do not have it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

rules = tomllib.loads((Path(__file__).parent.parent / "deny.toml").read_text())["licenses"]
allowed = set(rules["allow"])
exceptions = {rule["crate"]: set(rule["allow"]) for rule in rules["exceptions"]}


def fits(expression, allowed):
    """SPDX: AND binds tighter than OR; the old `/` is OR."""
    words = re.findall(r"[()]|AND|OR|[^()\s]+(?: WITH \S+)?", expression.replace("/", " OR "))

    def either():
        result = both()
        while words and words[0] == "OR":
            words.pop(0)
            result |= both()
        return result

    def both():
        result = one()
        while words and words[0] == "AND":
            words.pop(0)
            result &= one()
        return result

    def one():
        word = words.pop(0)
        if word != "(":
            return word in allowed
        result = either()
        words.pop(0)
        return result

    return either()


packages = []
# The crate, and the extension module of the Python wheel.
for manifest in ["Cargo.toml", "python/Cargo.toml"]:
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    command += ["--manifest-path", manifest]
    packages += json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packages"]
wrong = [
    f"{p['name']} {p['version']}: {p['license']}"
    for p in packages
    if not fits(p["license"] or "none", allowed | exceptions.get(p["name"], set()))
]
print("\n".join(wrong) or f"{len(packages)} packages, every licence allowed")
sys.exit(bool(wrong))
