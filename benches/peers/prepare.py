"""Makes what the comparison runs on: Q4_0 and IQ4_NL files by llama.cpp's own quantizer, and a rank-8 adapter in PEFT's layout.

    prepare.py SOURCE.gguf DIR

Both GGUF files come from the same source as our archive. The adapter is random, as only its shape matters to the time: rank 8 on
every linear layer. Files that are there already are kept.
"""

import ctypes
import json
import pathlib
import sys

import llama_cpp
import numpy as np
from safetensors.numpy import save_file

# [outputs, inputs] of SmolLM2-135M's linear layers.
LAYERS, RANK = 30, 8
SHAPES = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}


def quantize(source, target, kind):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = kind
    params.allow_requantize = True
    part = target.with_suffix(".part")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params))
    if status != 0:
        sys.exit(f"llama.cpp's quantizer failed on {source} with {status}")
    part.rename(target)


def adapter(folder):
    rng = np.random.default_rng(1)
    factor = lambda *shape: (rng.standard_normal(shape) * 0.01).astype(np.float16)
    tensors = {}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in SHAPES.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = factor(RANK, inputs)
            tensors[f"{key}.lora_B.weight"] = factor(outputs, RANK)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    config["target_modules"] = sorted(name.split(".")[1] for name in SHAPES)
    (folder / "adapter_config.json").write_text(json.dumps(config))


source, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
for name, kind in {"Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "IQ4_NL": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL}.items():
    file = work / f"{name}.gguf"
    if not file.exists():
        quantize(source, file, kind)
adapter(work / "rank8")
