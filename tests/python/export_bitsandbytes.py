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
from transformers import AutoModelForCausalLM, AutoTokenizer

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
        # As transformers holds them. (bitsandbytes' own products on a CPU want other shapes than these.)
        models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (out, golden)]
        layers = [[m for m in model.modules() if type(m).__name__ == "Linear4bit"] for model in models]
        assert len(layers[0]) == 14
        for mine, golden_layer in zip(*layers):
            assert torch.equal(mine.weight.data, golden_layer.weight.data)
            assert torch.equal(mine.weight.quant_state.absmax, golden_layer.weight.quant_state.absmax)
        dense = [{name: p for name, p in model.named_parameters() if p.dtype == torch.float32} for model in models]
        assert dense[0].keys() == dense[1].keys() and all(torch.equal(dense[0][n], dense[1][n]) for n in dense[0])
    print(f"{folder}: transformers loads the export; every weight is equal")

# Other families: nothing is missing, nothing is left over, and the tokenizer reads texts as we do.
for name in ["qwen2", "qwen3", "llama3-rope", "linear-rope"]:
    with tempfile.TemporaryDirectory() as work:
        base, out = f"{work}/base.lrk", f"{work}/out"
        subprocess.run([LOWRANK, "import", f"tests/golden/gguf/{name}.gguf", "-o", base], check=True, capture_output=True)
        subprocess.run([LOWRANK, "export", base, "--format", "bitsandbytes", "-o", out], check=True, capture_output=True)
        model, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (name, info)
        assert type(model).__name__ == {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}.get(name, "LlamaForCausalLM")
        text = "0123 ()*+ 456"
        ours = json.loads(subprocess.run([LOWRANK, "tokenize", "--base", base, "--json", text], check=True, capture_output=True).stdout)["ids"]
        theirs = AutoTokenizer.from_pretrained(out)(text).input_ids
        assert ours == theirs and len(ours) > 0, (name, ours, theirs)
    print(f"{name}: transformers loads the export completely; token ids are equal")
