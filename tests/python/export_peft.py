"""PEFT loads what `lowrank adapter export` writes and computes what it computes with the adapter that was imported.

Usage: export_peft.py LOWRANK, the program built with the feature cli. Needs the packages of tests/golden/requirements.txt.
Over every golden adapter, with its factors as they are, as f16 and as int8. PEFT must find every tensor it wants and have none
left over, and the logits must be those of the original within 1e-6 of the largest; for f16 and int8, of the original with its
factors rounded in the same way, within 1e-5 (k then follows the rounded factors in both)."""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

logging.disable_progress_bar()
# transformers says that a causal model's file has no classifier: the adapter brings it.
logging.set_verbosity_error()
# PEFT says of a bias of B that it can't be merged into layers without one, and of tensors that it is content.
warnings.simplefilter("ignore")

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = [("tiny-llama", name) for name in ("lora", "rslora", "dora", "embed_head", "lora_bias")]
CASES += [("tiny-zero-row", "dora"), ("tiny-llama", "score"), ("tiny-variants/qwen3", "score")]
CASES += [("tiny-variants/qwen2", name) for name in ("ia3", "ia3-all")]


def rounded(tensors, factors):
    """A and B as the archive's f16, or its int8 with one scale per row of A and of B transposed."""

    def row_wise(value):
        scale = value.abs().amax(dim=1, keepdim=True) / 127
        return torch.where(scale > 0, (value / scale).round().clamp(-127, 127) * scale, 0)

    def one(name, value):
        if "lora_A" not in name and "lora_B" not in name and "lora_embedding" not in name or name.endswith("bias"):
            return value
        if factors == "f16":
            return value.half().float()
        transposed = "lora_B" in name or "lora_embedding" in name
        return row_wise(value.T).T.contiguous() if transposed else row_wise(value)

    return {name: one(name, value) for name, value in tensors.items()}


@torch.no_grad()
def logits(base, adapter, tokens):
    settings = dict(dtype=torch.float32, attn_implementation="eager")
    if json.loads((adapter / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS":
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, **settings)
    else:
        model = AutoModelForCausalLM.from_pretrained(base, **settings)
    model = PeftModel.from_pretrained(model, adapter).eval()
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    stored = {k: v for k, v in load_file(adapter / "adapter_model.safetensors").items() if not k.endswith("base_layer.weight")}
    assert loaded.keys() == stored.keys(), loaded.keys() ^ stored.keys()
    assert all(torch.equal(loaded[name], stored[name].float()) for name in stored)
    return model(torch.tensor([tokens]), use_cache=False).logits[0].double()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")


def check(program, scratch, folder, name, factors):
    base, original = GOLDEN / folder, GOLDEN / folder / "adapters" / name
    stem = folder.replace("/", "-")
    archive, adapter, out = scratch / f"{stem}.lrk", scratch / f"{name}.lrk", scratch / f"{stem}-{name}-{factors}"
    if not archive.exists():
        run(program, "import", base, "--weights", "f32", "--embedding", "f32", "--without-tokenizer", "-o", archive)
    run(program, "adapter", "import", original, "--base", archive, "--factors", factors, "-o", adapter)
    run(program, "adapter", "export", adapter, "--base", archive, "-o", out)
    if factors != "as-is":
        copy = scratch / f"{stem}-{name}-{factors}-rounded"
        copy.mkdir()
        (copy / "adapter_config.json").write_text((original / "adapter_config.json").read_text())
        tensors = rounded(load_file(original / "adapter_model.safetensors"), factors)
        save_file(tensors, copy / "adapter_model.safetensors", metadata={"format": "pt"})
        original = copy
    tokens = json.loads((GOLDEN / folder / "tokens.json").read_text())["sequences"][0]
    ours, theirs = logits(base, out, tokens), logits(base, original, tokens)
    off = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"{folder}/{name} {factors}: {off:.1e}")
    return off <= (1e-6 if factors == "as-is" else 1e-5)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        cases = [(folder, name, factors) for folder, name in CASES for factors in ("as-is", "f16", "int8")]
        failed = [case for case in cases if not check(sys.argv[1], Path(scratch), *case)]
    if failed:
        sys.exit(f"logits differ: {failed}")


main()
