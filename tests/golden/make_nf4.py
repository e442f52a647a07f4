"""Golden values of NF4 and of double quantization: what bitsandbytes' CPU path makes of small tensors.

Writes nf4/. It neither loads models nor defines the method: README.md does, and this file checks that the definition
there gives the bytes stored here."""

import math

import bitsandbytes.functional as F
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

from common import folder, save_json, save_tensors, settle

f32 = np.float32
CODE = F.get_4bit_type("nf4", device="cpu")


def normal(shape, seed, scale=0.05):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(f32)


def spread(shape, seed, sigma, scale=1.0):
    """Normal values whose rows differ in size by a log-normal factor, so that the nested scales have work to do."""
    g = np.random.default_rng(seed)
    rows = np.exp(g.standard_normal((shape[0],) + (1,) * (len(shape) - 1)) * sigma)
    return (g.standard_normal(shape) * rows * scale).astype(f32)


def one_zero_block():
    x = normal((4, 64), 21)
    x[2] = 0
    return x


def zero_last_block():
    x = normal((3, 50), 22)  # 150 values: blocks of 64, 64 and 22
    x.reshape(-1)[128:] = 0
    return x


def signed_zeros():
    x = normal((2, 64), 23)
    x[0, ::2] = -0.0
    x[1] = -0.0
    return x


def thresholds():
    code = CODE.numpy()
    return ((code[:-1] + code[1:]) / f32(2)).astype(f32)


def ties():
    """Each row's largest value is a power of two, so the reciprocal is exact and row values sit on the thresholds:
    the threshold itself, the next float up, the next float down, the codes themselves, and -1."""
    t = thresholds()
    up, down = np.nextafter(t, f32(2)), np.nextafter(t, f32(-2))
    row = np.concatenate([t, up, down, CODE.numpy(), f32([-1, 0, 1])])  # 64 values
    return np.stack([row * f32(s) for s in (1, 0.5, 2, 2**-20, 2**20)]).astype(f32)


def ties_in_a_partial_block():
    return ties()[:1, :61].reshape(-1)[:61].copy()


def tiny_block():
    """Below 1e-38 the reciprocal is clamped; subnormal values must not be flushed to zero."""
    x = normal((6, 64), 24)
    x[1] *= f32(1e-36)
    x[2] = normal((64,), 25) * f32(1e-37) * f32(0.3)
    x[3] = (np.arange(64) - 31).astype(f32) * f32(1.4e-45)
    x[4] = 0
    x[4, 7] = f32(1e-45)
    return x


def tiny_partial_block():
    x = normal((3, 30), 26)  # 90 values: the last 26 are subnormal
    x.reshape(-1)[64:] = ((np.arange(26) - 12) * 3e-40).astype(f32)
    return x


def equal_blocks():
    x = np.tile(normal((1, 64), 27), (5, 1))
    return x.astype(f32)


CASES = [
    # name, input, block size, what it is for
    ("one", f32([[-0.7]]), 64, "a single value"),
    ("odd3", normal((1, 3), 1), 64, "odd count: the last low nibble is padding"),
    ("odd21", normal((3, 7), 2), 64, "odd count over several rows"),
    ("vector", normal((77,), 3), 64, "one dimension, a full and a partial block"),
    ("aligned", normal((4, 64), 4), 64, "a block per row"),
    ("straddle500", spread((5, 100), 5, 0.5), 64, "blocks straddle rows, the last one is partial"),
    ("rows320", spread((8, 320), 6, 0.5), 64, "five blocks per row"),
    ("rows576", spread((4, 576), 14, 0.6), 64, "nine blocks per row"),
    ("rows80", spread((12, 80), 7, 0.5), 64, "blocks straddle rows of 80 columns"),
    ("rows64", spread((32, 64), 8, 0.5), 64, "a block per row"),
    ("rows64_b128", spread((8, 64), 8, 0.5), 128, "a block holds two rows"),
    ("rows64_b256", spread((10, 64), 8, 0.5), 256, "block 256"),
    ("straddle_b32", spread((5, 100), 5, 0.5), 32, "block 32"),
    ("straddle_b128", spread((5, 100), 5, 0.5), 128, "block 128"),
    ("straddle_b512", spread((9, 100), 9, 0.5), 512, "block 512, last one partial"),
    ("b1024", spread((13, 100), 10, 0.5), 1024, "block 1024, last one partial"),
    ("b2048", spread((21, 100), 11, 0.5), 2048, "block 2048, last one partial"),
    ("b4096", spread((41, 100), 12, 0.5), 4096, "block 4096, last one partial"),
    ("zero", np.zeros((3, 64), f32), 64, "all zero"),
    ("zero_block", one_zero_block(), 64, "one zero block among others"),
    ("zero_last", zero_last_block(), 64, "the partial last block is zero: its stored absmax is 1e-38"),
    ("signed_zero", signed_zeros(), 64, "negative zeros"),
    ("ties", ties(), 64, "values exactly on the thresholds, and one float beside them"),
    ("ties_partial", ties_in_a_partial_block(), 64, "the same in a partial block"),
    ("small", normal((4, 70), 28) * f32(1e-30), 64, "magnitudes around 1e-30"),
    ("large", normal((4, 70), 29) * f32(1e30), 64, "magnitudes around 1e30"),
    ("huge", normal((2, 64), 30, 0.15) * f32(3e38), 64, "the reciprocal of absmax is subnormal"),
    ("subnormal", tiny_block(), 64, "subnormal blocks among others"),
    ("subnormal_last", tiny_partial_block(), 64, "subnormal partial last block"),
    ("equal", equal_blocks(), 64, "all blocks equal: the nested absmax is (nearly) zero"),
]
LARGE = [
    ("straddle30000", spread((300, 100), 13, 0.4), 64, "469 blocks, straddling; last block and nested group partial"),
    ("b32_520", spread((520, 32), 15, 0.8), 32, "520 blocks: three nested groups, the last partial"),
]


def quantize(name, x, block, forms):
    """Both forms of one tensor, and the dequantized values (by the flat definition) of the named forms."""
    t = torch.from_numpy(x)
    codes, plain = F.quantize_4bit(t, blocksize=block, quant_type="nf4", compress_statistics=False)
    codes2, nested = F.quantize_4bit(t, blocksize=block, quant_type="nf4", compress_statistics=True)
    assert torch.equal(codes, codes2)
    out = {
        "input": x,
        "codes": codes.reshape(-1),
        "absmax": plain.absmax,
        "nested_codes": nested.absmax,
        "nested_absmax": nested.state2.absmax,
        "offset": nested.offset.reshape(1),
    }
    assert nested.state2.blocksize == 256
    out["nested_scale"] = F.dequantize_blockwise(nested.absmax, nested.state2) + nested.offset
    for form in forms:
        state, absmax = (nested, out["nested_scale"]) if form == "nested" else (plain, plain.absmax)
        flat = _dequantize_4bit_compute(codes.reshape(-1), absmax, state.code, block, (x.size,), torch.float32)
        out[form] = flat.reshape(x.shape)
        native = F.dequantize_4bit(codes, state).reshape(x.shape)
        if not torch.equal(native, out[form]):
            print(f"  {name} ({form}): the native dequantizer differs from the flat definition on this CPU")
    check(x, block, out)
    return out


def torch_sum(x):
    """README.md, "the offset": torch's sum of a contiguous f32 vector on one thread."""

    def levels(rows):
        acc = np.zeros((4,) + rows.shape[1:], f32)
        for i, row in enumerate(rows, 1):
            acc[0] += row
            for j in (1, 2, 3):
                if i % 16**j:
                    break
                acc[j] += acc[j - 1]
                acc[j - 1] = 0
        return ((acc[0] + acc[1]) + acc[2]) + acc[3]

    def strided(items):
        whole = len(items) // 4 * 4
        s = levels(items[:whole].reshape((-1, 4) + items.shape[1:]))
        for item in items[whole:]:
            s[0] = s[0] + item
        return ((s[0] + s[1]) + s[2]) + s[3]

    if x.size < 8:
        return strided(x)
    whole = x.size // 8 * 8
    total = f32(0)
    for v in list(x[whole:]) + list(strided(x[:whole].reshape(-1, 8))):
        total = f32(total + v)
    return total


def lut_8bit():
    """README.md, "the 8-bit codes": the table of 65536 bins that bitsandbytes' CPU library looks codes up in."""
    code = F.create_dynamic_map().numpy()
    middle = (f32(0.5) * (code[:-1] + code[1:])).astype(f32)
    value = (f32(-1) + (f32(2) * np.arange(65536, dtype=f32)) / f32(65535)).astype(f32)
    return np.searchsorted(middle, value, side="left").astype(np.uint8)


LUT = lut_8bit()


def quantize_8bit(x, block=256):
    codes, absmax = np.zeros(x.size, np.uint8), []
    for i in range(0, x.size, block):
        part = x[i : i + block]
        m = np.abs(part).max()
        absmax.append(m)
        if m != 0:
            v = np.clip(part * (f32(1) / m), f32(-1), f32(1))
            codes[i : i + block] = LUT[((v + f32(1)) * f32(0.5) * f32(65535) + f32(0.5)).astype(np.int64)]
    return codes, f32(absmax)


@np.errstate(over="ignore", under="ignore")
def check(x, block, got):
    """Recomputes every byte from README.md's text alone."""
    x, bounds, floor = x.reshape(-1), thresholds(), f32(1e-38)
    q, absmax = [], []
    for i in range(0, x.size, block):
        part = x[i : i + block]
        m = np.abs(part).max()
        if part.size == block:
            v = part * (f32(1) / max(m, floor))
        else:
            m = max(m, floor)
            v = part / m
        absmax.append(m)
        q.append(np.searchsorted(bounds, np.clip(v, f32(-1), f32(1)), side="left"))
    q, absmax = np.concatenate(q + [[7]] * (x.size % 2)).astype(np.uint8), f32(absmax)
    offset = f32(torch_sum(absmax) / f32(absmax.size))
    codes8, absmax8 = quantize_8bit(absmax - offset)
    scale = F.create_dynamic_map().numpy()[codes8] * np.repeat(absmax8, 256)[: codes8.size] + offset
    code = CODE.numpy()[q][: x.size]
    expected = {
        "codes": (q[::2] << 4) | q[1::2], "absmax": absmax, "offset": offset.reshape(1), "nested_codes": codes8,
        "nested_absmax": absmax8, "nested_scale": scale, "nested": code * np.repeat(scale, block)[: x.size],
        "plain": code * np.repeat(absmax, block)[: x.size],
    }  # fmt: skip
    for key, value in expected.items():
        if key in got:
            assert np.array_equal(np.asarray(got[key]).reshape(-1), value), key


def scales():
    """Long vectors of scales, through torch's mean and the 8-bit quantizer alone: sums with every level of the cascade."""
    out = {}
    for n in list(range(1, 41)) + [63, 64, 65, 255, 256, 257, 511, 512, 513, 545, 1000, 8225]:
        x = np.abs(np.random.default_rng(1000 + n).standard_normal(n) * 0.3 + 1).astype(f32)
        mean = torch.from_numpy(x).mean()
        assert mean.item() == f32(torch_sum(x) / f32(n)), n
        out[f"mean{n}.input"], out[f"mean{n}.mean"] = x, mean.reshape(1)
    return out


def eight_bit():
    """The 8-bit quantizer over values beside the edges of its bins, over ordinary values, and over a zero group."""
    g = np.random.default_rng(77)
    code = F.create_dynamic_map().numpy()
    middle = ((code[:-1] + code[1:]) * f32(0.5)).astype(f32)
    bins = ((g.integers(0, 65535, 500) + 0.5) / 65535 * 2 - 1).astype(f32)
    edges = np.concatenate([np.nextafter(middle, f32(2)), np.nextafter(middle, f32(-2)), middle, code, bins])
    edges = np.concatenate([edges, np.nextafter(bins, f32(2)), np.nextafter(bins, f32(-2))])
    edges = edges[: edges.size // 255 * 255].reshape(-1, 255)
    edges = np.concatenate([np.ones((len(edges), 1), f32), edges], 1)
    usual = g.standard_normal((8, 256)) * np.exp(g.standard_normal((8, 1)) * 4)
    x = np.concatenate([edges, usual, np.zeros((1, 256))]).astype(f32).reshape(-1)
    x = np.concatenate([x, (g.standard_normal(100) * 1e-3).astype(f32)])
    codes, state = F.quantize_blockwise(torch.from_numpy(x), blocksize=256)
    mine = quantize_8bit(x)
    assert np.array_equal(codes.numpy(), mine[0]) and np.array_equal(state.absmax.numpy(), mine[1])
    values = F.dequantize_blockwise(codes, state)
    return {"input": x, "codes": codes, "absmax": state.absmax, "dequantized": values}


def run():
    settle(1)
    out, listing = folder("nf4"), []
    for file, cases in (("cases.safetensors", CASES), ("large.safetensors", LARGE)):
        tensors = {"quant_map": CODE, "nested_quant_map": F.create_dynamic_map()}
        for name, x, block, why in cases:
            parts = quantize(name, x, block, ["nested", "plain"] if cases is CASES else [])
            tensors |= {f"{name}.{key}": value for key, value in parts.items()}
            entry = {"name": name, "file": file, "shape": list(x.shape), "blocksize": block}
            listing.append(entry | {"blocks": math.ceil(x.size / block), "why": why})
        save_tensors(out / file, tensors)
    save_json(out / "cases.json", {"nested_blocksize": 256, "cases": listing})
    save_tensors(out / "scales.safetensors", scales())
    save_tensors(out / "blockwise8.safetensors", eight_bit())
