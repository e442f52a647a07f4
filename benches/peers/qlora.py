"""SmolLM2-135M, r = 8 on every linear layer, batches of 1 x 256 tokens: PEFT on torch (float32 weights) and lowrank (NF4 weights),
alternately in one run. Prints tokens/s of the optimizer steps after the first, and peak resident memory, per process.

    python qlora.py LOWRANK BASE.lrk TEXT.txt THREADS [ROUNDS]        with the GGUF in $SMOLLM2_GGUF
    python qlora.py peft THREADS CHECKPOINTING TEXT.txt               one PEFT process; prints JSON
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEPS, LENGTH = 5, 256
HERE = Path(__file__).resolve().parent


def resident():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peft(threads, checkpointing, text):
    sys.path.insert(0, str(HERE.parent.parent / "tests" / "golden" / "smollm2"))
    import load
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    path = load.find()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = load.tokenizer(path)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    ids = tokenizer(Path(text).read_text())["input_ids"]
    seconds, losses = [], []
    for step in range(STEPS):
        batch = torch.tensor([ids[step * LENGTH : (step + 1) * LENGTH]])
        start = time.perf_counter()
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    print(json.dumps({"tokens_per_s": LENGTH * (STEPS - 1) / sum(seconds[1:]), "peak_resident": resident(), "losses": losses}))


def run(command):
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main(lowrank, base, text, threads, rounds):
    print(f"SmolLM2-135M, r = 8, all linear layers, batch 1 x {LENGTH}, {threads} threads, medians of {rounds} rounds\n")
    print("| activations | precision | PEFT tokens/s | lowrank tokens/s | ratio | PEFT resident | lowrank resident |")
    print("|---|---|---|---|---|---|---|")
    for checkpointing in (False, True):
        theirs, ours = [], {"exact": [], "fast": []}
        for _ in range(rounds):
            theirs.append(run([sys.executable, __file__, "peft", threads, str(int(checkpointing)), text]))
            command = [lowrank, "train", "--base", base, "--data", text, "--method", "qlora", "--steps", str(STEPS), "--batch-size", "1"]
            command += ["--max-length", str(LENGTH), "--threads", threads, "--json", "-o", str(Path(base).with_name("peers-qlora.lrk"))]
            for precision, runs in ours.items():
                runs.append(run(command + ["--precision", precision] + ["--checkpointing"] * checkpointing))
        name = "checkpointed" if checkpointing else "kept"
        for precision, runs in ours.items():
            speed = [statistics.median(row["tokens_per_s"] for row in rows) for rows in (theirs, runs)]
            memory = [max(row["peak_resident"] for row in rows) / 1e6 for rows in (theirs, runs)]
            ratio = statistics.median(b["tokens_per_s"] / a["tokens_per_s"] for a, b in zip(theirs, runs))
            numbers = f"{speed[0]:.0f} | {speed[1]:.0f} | {ratio:.2f} | {memory[0]:.0f} MB | {memory[1]:.0f} MB"
            print(f"| {name} | {precision} | {numbers} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peft"]:
        peft(int(sys.argv[2]), bool(int(sys.argv[3])), sys.argv[4])
    elif len(sys.argv) in (5, 6):
        main(*sys.argv[1:5], int(sys.argv[5]) if len(sys.argv) == 6 else 3)
    else:
        sys.exit(__doc__)
