"""Golden files of the optimizers, the gradient clip and the schedules: python make.py (writes beside itself).

Gradients and starting values come from `values`, which the Rust test repeats exactly: only results are stored.
Versions as in ../requirements.txt; one thread.
"""

import json
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

HERE = Path(__file__).parent
STEPS = 10


def values(count, salt):
    """`((i * 40503 + salt * 7919) mod 65536 / 32768 - 1)` cubed, every step exact or rounded once in f32."""
    raw = (np.arange(count, dtype=np.int64) * 40503 + salt * 7919) % 65536
    x = raw.astype(np.float32) / np.float32(32768) - np.float32(1)
    return x * x * x


def run(make, sizes):
    """Parameters after STEPS steps; gradients are values(total, 1 + step), cut to the tensors."""
    total, starts = sum(sizes), np.cumsum([0] + sizes)
    cut = lambda flat: [torch.tensor(flat[a:b].copy()) for a, b in zip(starts, starts[1:])]
    parameters = [torch.nn.Parameter(p) for p in cut(values(total, 0))]
    optimizer = make(parameters)
    base = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, cut(values(total, 1 + step))):
            parameter.grad = gradient
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * (1 - step / 16)
        optimizer.step()
    return torch.cat([p.detach() for p in parameters]).numpy(), optimizer, parameters


def groups(parameters):
    """Three groups: rate 1e-2 times 1, 16 and 1; decay 0, 0.1 and 0.01."""
    settings = [(1.0, 0.0), (16.0, 0.1), (1.0, 0.01)]
    return [{"params": [p], "lr": 1e-2 * rate, "weight_decay": decay} for p, (rate, decay) in zip(parameters, settings)]


def optimizers():
    out, small = {}, [37, 100, 8]
    out["adamw"], optimizer, parameters = run(lambda p: torch.optim.AdamW(groups(p)), small)
    out["adamw.m"] = torch.cat([optimizer.state[p]["exp_avg"] for p in parameters]).numpy()
    out["adamw.v"] = torch.cat([optimizer.state[p]["exp_avg_sq"] for p in parameters]).numpy()
    out["adamw.betas"] = run(lambda p: torch.optim.AdamW(groups(p), betas=(0.8, 0.95), eps=1e-6), small)[0]
    out["sgd"] = run(lambda p: torch.optim.SGD(groups(p), momentum=0.9), small)[0]
    out["sgd.plain"] = run(lambda p: torch.optim.SGD(groups(p)), small)[0]
    out["adamw8"], optimizer, parameters = run(lambda p: bnb.optim.AdamW8bit(groups(p)), [4196, 300, 5])
    state = optimizer.state[parameters[0]]
    out["adamw8.m"], out["adamw8.v"] = state["state1"].numpy(), state["state2"].numpy()
    out["adamw8.absmax_m"], out["adamw8.absmax_v"] = state["absmax1"].numpy(), state["absmax2"].numpy()
    out["map.unsigned"] = bnb.functional.create_dynamic_map(signed=False).numpy()
    assert optimizer.state[parameters[1]]["state1"].dtype == torch.float32

    for name, limit in (("above", 1.0), ("below", 100.0)):
        parameter = torch.nn.Parameter(torch.zeros(145))
        parameter.grad = torch.tensor(values(145, 3))
        norm = torch.nn.utils.clip_grad_norm_([parameter], limit)
        out[f"clip.{name}"], out[f"clip.{name}.norm"] = parameter.grad.numpy(), norm.reshape(1).numpy()
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in out.items()}, HERE / "optimizer.safetensors")


def schedules():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    makers = {
        "constant": lambda w, t: transformers.get_constant_schedule_with_warmup(optimizer, w),
        "linear": lambda w, t: transformers.get_linear_schedule_with_warmup(optimizer, w, t),
        "cosine": lambda w, t: transformers.get_cosine_schedule_with_warmup(optimizer, w, t),
    }
    rows = []
    for shape, make in makers.items():
        for warmup, total in ((0, 10), (3, 20), (5, 5), (10, 8)):
            factor = make(warmup, total).lr_lambdas[0]
            rows.append({"shape": shape, "warmup": warmup, "total": total, "factors": [factor(s) for s in range(total)]})
    (HERE / "schedules.json").write_text(json.dumps(rows) + "\n")


torch.set_num_threads(1)
optimizers()
schedules()
