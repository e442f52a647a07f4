"""transformers loads our bitsandbytes export, and its dequantized weights are bit-equal to the golden checkpoint's.

Usage: export_bitsandbytes.py PATH_OF_LOWRANK, from the repository's root.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

LOWRANK = sys.argv[1]


def dequantized(directory):
    """Every packed weight by the flat definition, as bitsandbytes' own scales and codes say."""
    weights = {}
    with safe_open(Path(directory) / "model.safetensors", "pt") as file:
        for key in file.keys():
            if not key.endswith(".quant_state.bitsandbytes__nf4"):
                continue
            name = key.removesuffix(".quant_state.bitsandbytes__nf4")
            state = json.loads(bytes(file.get_tensor(key).tolist()))
            absmax = file.get_tensor(name + ".absmax")
            if "nested_offset" in state:
                nested = bnb.QuantState(file.get_tensor(name + ".nested_absmax"), code=file.get_tensor(name + ".nested_quant_map"), blocksize=256, dtype=torch.float32)
                absmax = bnb.dequantize_blockwise(absmax, nested) + state["nested_offset"]
            packed = file.get_tensor(name).flatten()
            codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
            values = file.get_tensor(name + ".quant_map")[codes]
            scales = absmax.float().repeat_interleave(state["blocksize"])[: len(values)]
            weights[name] = (values * scales).view(state["shape"])
    return weights


for folder in ["tiny-llama-bnb", "tiny-llama-bnb-plain"]:
    golden = f"tests/golden/{folder}"
    with tempfile.TemporaryDirectory() as work:
        base, out = f"{work}/base.lrk", f"{work}/out"
        subprocess.run([LOWRANK, "import", golden, "-o", base, "--embedding", "f32", "--without-tokenizer"], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([LOWRANK, "export", base, "--format", "bitsandbytes", "-o", out], check=True)
        ours, theirs = dequantized(out), dequantized(golden)
        assert ours.keys() == theirs.keys() and len(ours) == 14
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), folder
        ids = torch.tensor(json.loads(Path("tests/golden/tiny-llama/tokens.json").read_text())["sequences"][:1])
        with torch.no_grad():
            logits = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits for path in (out, golden)]
        assert torch.equal(*logits), folder
    print(f"{folder}: transformers loads the export; weights and logits are equal")
