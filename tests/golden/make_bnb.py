"""Golden bitsandbytes checkpoints of the tiny Llama and the logits over them. Writes tiny-llama-bnb/ (nested scales) and
tiny-llama-bnb-plain/ (plain f32 scales). Needs tiny-llama/ from make_llama.py.

transformers quantizes and saves. The logits are *not* those of bitsandbytes' 4-bit layers: on CPUs with AVX512-BF16 these
repack the weights and multiply in bf16. So the saved weights are dequantized by bitsandbytes into plain f32 layers."""

import bitsandbytes.functional as F
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from common import HERE, folder, save_tensors, settle
from make_llama import SHAPE, attach, llama, logits, numbered, read_tokens, save_adapter, save_model


def quantized(out, nested):
    """Quantizes tiny-llama as a user does, and saves it."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(
        HERE / "tiny-llama", quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
    )
    save_model(model, out)


def float_model(out):
    """The saved checkpoint with its 4-bit weights dequantized by bitsandbytes."""
    saved = load_file(out / "model.safetensors")
    plain = {}
    for name, value in saved.items():
        if ".weight." in name:
            continue
        parts = {k.removeprefix(name + "."): v for k, v in saved.items() if k.startswith(name + ".")}
        if parts:
            value = F.dequantize_4bit(value, F.QuantState.from_dict(parts, torch.device("cpu")))
        plain[name] = value
    model = llama(SHAPE, 0)
    model.load_state_dict(plain)
    return model


def run():
    settle(3)
    sequences = read_tokens("tiny-llama")[:1]
    for name, nested in (("tiny-llama-bnb", True), ("tiny-llama-bnb-plain", False)):
        out = folder(name)
        quantized(out, nested)
        stored = numbered("base", logits(float_model(out), sequences))
        lora = PeftModel.from_pretrained(float_model(out), HERE / "tiny-llama" / "adapters" / "lora").eval()
        stored |= numbered("lora", logits(lora, sequences))
        dora = HERE / "tiny-llama-bnb" / "adapters" / "dora"
        if nested:
            save_adapter(attach(float_model(out), 150, use_dora=True), folder(dora))
        stored |= numbered("dora", logits(PeftModel.from_pretrained(float_model(out), dora).eval(), sequences))
        save_tensors(out / "logits.safetensors", stored)
