"""docs/format.md is enough to read an archive: this program knows no more than the page and has its structures from the page's
tables. Standard library only.

Usage: read_archive.py LOWRANK, the program built with the feature cli. Every archive of the repository must have the checksum and the
fingerprint that the page defines, `lowrank inspect` must say the same, and the weights of `assets/tiny.lrk` and of an adapter on it
must be, bit for bit, those that `lowrank export` and `lowrank adapter export` write."""

import hashlib
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/format.md").read_text()
ROOTS = {int(n, 16): name for n, name in re.findall(r"^\| (0x\w+) \| (\w+) \|$", PAGE, re.M)}
STRUCTURES = {
    name: (int(size), [(int(at), field, kind) for at, field, kind in re.findall(r"^\| (\d+) \| (\w+) \| ([\w ]+) \|", rows, re.M)])
    for name, size, rows in re.findall(r"^### (\w+): (\d+) bytes\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
}
NUMBERS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q", "f32": "<f", "f32x4": "<4f"}


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


C = [f32(float(word)) for word in re.search(r"\*\*C\*\*.*?```\n(.*?)```", PAGE, re.S)[1].split()]


def dynamic_map():
    m = [0.0] * 256
    m[255] = 1.0
    for d in range(7):
        parts = 2**d
        step = f32(f32(1.0 - f32(0.1)) / parts)
        points = [f32(f32(0.1) + step * k) if k < (parts + 1) // 2 else f32(1.0 - step * (parts - k)) for k in range(parts + 1)]
        for k in range(parts):
            j = parts - 1 + k
            m[128 + j] = f32(f32(10.0 ** (d - 6)) * f32(f32(points[k] + points[k + 1]) / 2))
            m[126 - j] = -m[128 + j]
    return m


M = dynamic_map()


def size_and_alignment(kind):
    if kind == "bytes16":
        return 16, 1
    if kind in NUMBERS:
        size = struct.calcsize(NUMBERS[kind])
        return size, min(size, 4 if kind == "f32x4" else 8)
    if kind in ("text", "lines") or kind.startswith("list of "):
        return 16, 8
    if kind.startswith("option of "):
        size, alignment = size_and_alignment(kind[10:])
        return alignment + size, alignment
    return STRUCTURES[kind][0], max(size_and_alignment(k)[1] for _, _, k in STRUCTURES[kind][1])


def read(payload, at, kind):
    """What stands at `at`: a number, bytes, a list, None, or the fields of a structure by name."""
    if kind == "bytes16":
        return payload[at : at + 16]
    if kind in NUMBERS:
        values = struct.unpack_from(NUMBERS[kind], payload, at)
        return values if len(values) > 1 else values[0]
    if kind.startswith("option of "):
        return read(payload, at + size_and_alignment(kind)[1], kind[10:]) if payload[at] else None
    if kind in ("text", "lines") or kind.startswith("list of "):
        distance, count = struct.unpack_from("<qQ", payload, at)
        start = at + distance
        if kind == "text":
            return payload[start : start + count].decode() if count else ""
        if kind == "lines":
            return payload[start : start + 64 * count] if count else b""
        size = size_and_alignment(kind[8:])[0]
        return [read(payload, start + i * size, kind[8:]) for i in range(count)]
    return {field: read(payload, at + offset, inner) for offset, field, inner in STRUCTURES[kind][1]}


def xxh64(data):
    """XXH64 with seed 0, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md."""
    p1, p2, p3, p4, p5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
    mask = 2**64 - 1

    def rotate(x, by):
        return (x << by | x >> (64 - by)) & mask

    def round_(lane, word):
        return rotate((lane + word * p2) & mask, 31) * p1 & mask

    whole = len(data) // 32 * 32
    if whole:
        lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
        words = struct.unpack_from(f"<{whole // 8}Q", data)
        for i in range(0, len(words), 4):
            lanes = [round_(lane, word) for lane, word in zip(lanes, words[i : i + 4])]
        hash_ = sum(rotate(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18))) & mask
        for lane in lanes:
            hash_ = ((hash_ ^ round_(0, lane)) * p1 + p4) & mask
    else:
        hash_ = p5
    hash_ = (hash_ + len(data)) & mask
    at = whole
    while at + 8 <= len(data):
        hash_ = (rotate(hash_ ^ round_(0, struct.unpack_from("<Q", data, at)[0]), 27) * p1 + p4) & mask
        at += 8
    if at + 4 <= len(data):
        hash_ = (rotate(hash_ ^ struct.unpack_from("<I", data, at)[0] * p1 & mask, 23) * p2 + p3) & mask
        at += 4
    for byte in data[at:]:
        hash_ = rotate(hash_ ^ byte * p5 & mask, 11) * p1 & mask
    for shift, prime in ((33, p2), (29, p3), (32, 1)):
        hash_ = (hash_ ^ hash_ >> shift) * prime & mask
    return hash_


def place(matrix, i):
    """The byte of code i, and whether it is in the high four bits."""
    if matrix["layout"] == 0:
        return i // 2, i % 2 == 0
    return 32 * (i // 64) + i % 32, i % 64 >= 32


def code(matrix, i):
    byte, high = place(matrix, i)
    return matrix["codes"][byte] >> 4 if high else matrix["codes"][byte] & 15


def payload_sizes(matrix):
    count, format_ = matrix["rows"] * matrix["cols"], matrix["format"]
    blocks = -(-count // matrix["block"])
    codes = (4 * count, 2 * count, count, -(-count // 2), -(-count // 2))[format_]
    return codes, (0, 0, 2 * blocks, blocks, 4 * blocks)[format_], -(-blocks // 256) * 4 if format_ == 3 else 0


def absmax(matrix, block):
    if matrix["format"] == 4:
        return struct.unpack_from("<f", matrix["scales"], 4 * block)[0]
    nested = struct.unpack_from("<f", matrix["nested"], block // 256 * 4)[0]
    return f32(f32(M[matrix["scales"][block]] * nested) + matrix["offset"])


def weights(matrix):
    count, format_ = matrix["rows"] * matrix["cols"], matrix["format"]
    if format_ < 2:
        return list(struct.unpack_from(f"<{count}{'fe'[format_]}", matrix["codes"]))
    blocks = -(-count // matrix["block"])
    if format_ == 2:
        scales = struct.unpack_from(f"<{blocks}e", matrix["scales"])
        values = struct.unpack_from(f"<{count}b", matrix["codes"])
        return [f32(q * scales[i // matrix["block"]]) for i, q in enumerate(values)]
    scales = [absmax(matrix, block) for block in range(blocks)]
    return [f32(C[code(matrix, i)] * scales[i // matrix["block"]]) for i in range(count)]


class Fingerprint:
    def __init__(self, root):
        self.hash = hashlib.sha256()
        self.numbers(root)

    def numbers(self, *values):
        self.hash.update(struct.pack(f"<{len(values)}I", *values))

    def fields(self, structure, names):
        self.numbers(*(structure[name] for name in names.split()))

    def bytes(self, data):
        self.hash.update(struct.pack("<Q", len(data)) + data)

    def floats(self, *values):
        self.bytes(struct.pack(f"<{len(values)}f", *values))

    def vector(self, lines, count):
        self.bytes(lines[: 4 * count])

    def matrix(self, m):
        self.fields(m, "rows cols format block")
        self.floats(m["offset"])
        codes, scales, nested = payload_sizes(m)
        if m["layout"]:
            pairs = (code(m, 2 * i) << 4 | code(m, 2 * i + 1) for i in range(codes))
            self.bytes(bytes(pairs))
        else:
            self.bytes(m["codes"][:codes])
        self.bytes(m["scales"][:scales])
        self.bytes(m["nested"][:nested])

    def linear(self, linear):
        self.matrix(linear["weight"])
        self.vector(linear["bias"], linear["weight"]["rows"])

    def norm(self, norm, dim):
        self.vector(norm["weight"], dim)
        self.vector(norm["bias"], dim)

    def factor(self, factor, rows, cols):
        self.numbers(factor["format"])
        self.bytes(factor["values"][: rows * cols * (4, 2, 1)[factor["format"]]])
        self.vector(factor["scales"], rows)

    def optional(self, value, feed):
        self.numbers(value is not None)
        if value is not None:
            feed(value)

    def Llama(self, root):
        c = root["config"]
        self.fields(c, "vocab dim layers heads kv_heads head_dim hidden context rope_scaling")
        self.floats(c["rope_theta"], c["norm_epsilon"])
        self.floats(*c["rope_parameters"])
        for layer in root["layers"]:
            for name in "q k v o gate up down".split():
                self.linear(layer[name])
            for name, count in (("attention_norm", "dim"), ("q_norm", "head_dim"), ("k_norm", "head_dim"), ("feed_forward_norm", "dim")):
                self.vector(layer[name], c[count])
        self.matrix(root["embedding"])
        self.optional(root["head"], self.matrix)
        self.vector(root["norm"], c["dim"])

    def Bert(self, root):
        c = root["config"]
        self.fields(c, "vocab dim layers heads hidden context token_types activation pooling normalize")
        self.floats(c["norm_epsilon"])
        for layer in root["layers"]:
            for name in "q k v o up down".split():
                self.linear(layer[name])
            self.norm(layer["attention_norm"], c["dim"])
            self.norm(layer["output_norm"], c["dim"])
        for name in "embedding positions token_type_table".split():
            self.matrix(root[name])
        self.norm(root["embedding_norm"], c["dim"])
        self.optional(root["pooler"], self.linear)

    def Lstm(self, root):
        self.fields(root["config"], "vocab dim hidden layers head outputs")
        for layer in root["layers"]:
            self.linear(layer["ih"])
            self.linear(layer["hh"])
        self.matrix(root["embedding"])
        if root["head"]:
            self.linear(root["head"])

    def Mlp(self, root):
        self.fields(root["config"], "inputs outputs layers activation")
        for layer in root["layers"]:
            self.linear(layer)

    def Adapter(self, root):
        self.hash.update(root["base"])
        self.numbers(len(root["targets"]), len(root["replaced"]))
        for t in root["targets"]:
            self.fields(t, "site kind scaling rank inputs outputs")
            self.floats(t["alpha"])
            self.factor(t["a"], *((t["inputs"], t["rank"]) if t["kind"] == 1 else (t["rank"], t["inputs"])))
            self.factor(t["b"], t["rank"], t["outputs"])
            for name in "bias magnitude gain".split():
                self.vector(t[name], t["inputs" if t["kind"] == 3 and name == "magnitude" else "outputs"])
        for replaced in root["replaced"]:
            self.numbers(replaced["site"])
            self.linear(replaced["linear"])
        if root["classifier"]:
            self.linear(root["classifier"]["linear"])


def open_archive(path):
    data = path.read_bytes()
    magic, version, number, length, checksum, fingerprint, _ = struct.unpack_from("<8sIIQQ16sQ", data)
    assert magic == b"LOWRANK\0" and version == 1 and len(data) == length + 128 and not any(data[56:128]), path
    assert xxh64(data[128:] + data[:24] + bytes(8) + data[32:128]) == checksum, f"{path}: checksum"
    name = ROOTS[number]
    root = read(data[128:], length - STRUCTURES[name][0], name)
    # How many numbers a checkpoint holds follows from its run, which is not looked at here.
    if name != "Checkpoint":
        ours = Fingerprint(number)
        getattr(ours, name)(root)
        assert ours.hash.digest()[:16] == fingerprint, f"{path}: fingerprint"
    return root, fingerprint.hex()


def safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    tensors = json.loads(data[8 : 8 + length])
    tensors.pop("__metadata__", None)
    return {name: (t["dtype"], data[8 + length :][slice(*t["data_offsets"])]) for name, t in tensors.items()}


def same_floats(what, ours, tensor):
    kind, theirs = tensor
    if kind == "F16":
        ours, theirs = struct.pack(f"<{len(ours)}e", *ours), theirs
    else:
        assert kind == "F32", (what, kind)
        ours = struct.pack(f"<{len(ours)}f", *ours)
    assert ours == theirs, f"{what}: not the values of the page"


def main(lowrank):
    for name, (size, fields) in STRUCTURES.items():
        at = max(at + size_and_alignment(kind)[0] for at, _, kind in fields)
        assert at <= size < at + 8, f"{name}: its fields end at {at}, not at {size}"
    archives = sorted([*(ROOT / "tests/archives").glob("*.lrk"), *(ROOT / "assets").glob("*.lrk")])
    assert len(archives) > 20, archives
    for path in archives:
        _, fingerprint = open_archive(path)
        facts = json.loads(subprocess.run([lowrank, "inspect", path, "--json"], check=True, capture_output=True).stdout)
        assert facts["fingerprint"] == fingerprint, path
    base, adapter = ROOT / "assets/tiny.lrk", ROOT / "assets/tiny-pirate.lrk"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = [lowrank, "export", base, "--format", "bitsandbytes", "-o", folder / "base"]
        subprocess.run(run, check=True, capture_output=True)
        theirs = safetensors(folder / "base/model.safetensors")
        root, _ = open_archive(base)
        same_floats("embedding", weights(root["embedding"]), theirs["model.embed_tokens.weight"])
        q, name = root["layers"][0]["q"]["weight"], "model.layers.0.self_attn.q_proj.weight"
        same_floats("C", C, theirs[f"{name}.quant_map"])
        same_floats("M", M, theirs[f"{name}.nested_quant_map"])
        codes = bytes(code(q, 2 * i) << 4 | code(q, 2 * i + 1) for i in range(payload_sizes(q)[0]))
        assert codes == theirs[name][1] and max(map(abs, weights(q))) > 0, "q_proj: other codes"
        run = [lowrank, "adapter", "export", adapter, "--base", base, "-o", folder / "adapter"]
        subprocess.run(run, check=True, capture_output=True)
        theirs = safetensors(folder / "adapter/adapter_model.safetensors")
        root, _ = open_archive(adapter)
        target = next(t for t in root["targets"] if t["site"] == 0)
        factor = {"rows": target["rank"], "cols": target["inputs"], "codes": target["a"]["values"]}
        a = weights({**target["a"], **factor})
        same_floats("A", a, theirs["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"])
    print(f"{len(archives)} archives read from docs/format.md alone")


main(Path(sys.argv[1]).resolve())
