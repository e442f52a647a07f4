"""What every part of the golden files shares: where they lie, how they are written, and the settings that make a second
run give the same bytes. It makes no golden value itself."""

import json
import os
import random
from pathlib import Path

# The dequantizer's torch.compile path would start a C++ compiler for one multiplication; its result is the same.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent


def settle(seed):
    """One thread and one seed: torch's sums depend on the number of threads."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def folder(name):
    path = HERE / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def save_tensors(path, tensors):
    """Writes numpy arrays or torch tensors, names sorted by the library, nothing but tensors in the file."""
    plain = {}
    for name, value in tensors.items():
        value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        plain[name] = np.ascontiguousarray(value)
    save_file(plain, str(path))
    path.chmod(0o644)


def save_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")
