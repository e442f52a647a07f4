"""Writes nf4.json: what bitsandbytes' NF4 with double quantization (block 64) does to the perplexity of text.txt.

Every linear layer but the output head (which is the embedding) is quantized and dequantized by bitsandbytes' own codes and scales;
everything is computed in f32. Not part of make.py because only this needs bitsandbytes.
"""

import json
import math
from pathlib import Path

import bitsandbytes.functional as bnb
import torch

import load

HERE = Path(__file__).parent
WINDOW = 512


def round_trip(weight):
    """Codes and scales as bitsandbytes makes them, decoded by the flat definition (its AVX-512 path takes wrong scales)."""
    packed, state = bnb.quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True)
    absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().long()
    return (state.code[codes].view(-1, 64) * absmax.view(-1, 1)).view(weight.shape)


@torch.no_grad()
def perplexity(model, ids):
    nll, scored = 0.0, 0
    for start in range(0, len(ids), WINDOW):
        window = torch.tensor(ids[start : start + WINDOW])
        if len(window) > 1:
            logits = model(window[None], use_cache=False).logits[0, :-1].double()
            nll += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
            scored += len(window) - 1
    return math.exp(nll / scored)


def main():
    path = load.find()
    model, tokenizer = load.model(path), load.tokenizer(path)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.weight.data = round_trip(layer.weight.data)
    ids = tokenizer((HERE / "text.txt").read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    result = {"blocksize": 64, "double_quantization": True, "embedding": "f32", "perplexity": perplexity(model, ids)}
    print(result)
    (HERE / "nf4.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
