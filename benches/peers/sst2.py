"""PEFT's side of the SST-2 comparison, and the table of both: see sst2.sh.

    sst2.py peft MODEL TRAIN DEV --seed N (--epochs N | --steps N) [--sorted] [--threads N]     one JSON line
    sst2.py table FILE ...                                                                      files of such lines

LoRA r = 8, alpha 16 on all linear layers of a BERT-family encoder (f32), a classifier on the pooled state, batches of 32, AdamW at
5e-4 with a linear schedule and 1/16 warm-up. Batches are padded to their longest text: random ones, as people run it, or (--sorted)
texts of similar lengths together, as `lowrank train` forms them. Only the optimizer's steps are timed."""

import argparse
import collections
import json
import random
import sys
import time
from pathlib import Path

BATCH, RATE, RANK, ALPHA, WARMUP, LONGEST = 32, 5e-4, 8, 16, 1 / 16, 128
# Sorted batches come from pools of this many batches in random order: the same spread of lengths, another order every epoch.
POOL = 50


def read(path):
    lines = [line.rsplit("\t", 1) for line in Path(path).read_text(encoding="utf-8").splitlines() if line]
    return [text for text, _ in lines], [int(label) for _, label in lines]


def peak_resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def batches(lengths, chance, by_length):
    order = list(range(len(lengths)))
    chance.shuffle(order)
    if not by_length:
        return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    out = []
    for first in range(0, len(order), BATCH * POOL):
        pool = sorted(order[first : first + BATCH * POOL], key=lambda i: lengths[i])
        out += [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
    chance.shuffle(out)
    return out


def peft(arguments):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    chance = random.Random(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    base = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2)
    config = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear")
    model = get_peft_model(base, config).train()
    texts, labels = read(arguments.train)
    tokens = tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
    lengths = [len(ids) for ids in tokens]

    def tensors(ids):
        return tokenizer.pad({"input_ids": ids}, return_tensors="pt")

    per_epoch = -(-len(texts) // BATCH)
    total = arguments.steps or arguments.epochs * per_epoch
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * total), total)
    queue, losses, padded, own = collections.deque(), [], 0, 0
    started = time.perf_counter()
    for _ in range(total):
        if not queue:
            queue.extend(batches(lengths, chance, arguments.sorted))
        chosen = queue.popleft()
        batch = tensors([tokens[i] for i in chosen])
        padded += batch["input_ids"].numel()
        own += sum(lengths[i] for i in chosen)
        loss = model(**batch, labels=torch.tensor([labels[i] for i in chosen])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    resident = peak_resident()

    model.eval()
    texts, labels = read(arguments.dev)
    right = 0
    with torch.no_grad():
        for first in range(0, len(texts), 16):
            ids = tokenizer(texts[first : first + 16], truncation=True, max_length=LONGEST)["input_ids"]
            right += (model(**tensors(ids)).logits.argmax(-1) == torch.tensor(labels[first : first + 16])).sum().item()
    tail = losses[-max(1, total // 20) :]
    facts = {"who": "PEFT, sorted batches" if arguments.sorted else "PEFT, random batches", "steps": total, "seconds": seconds}
    facts |= {"accuracy": right / len(texts), "peak_resident": resident, "loss": sum(tail) / len(tail)}
    facts |= {"trainable_parameters": sum(p.numel() for p in trained), "tokens": own, "padded_tokens": padded}
    print(json.dumps(facts))


def table(paths):
    rows = collections.defaultdict(list)
    for path in paths:
        facts = json.loads(Path(path).read_text().strip().splitlines()[-1])
        # lowrank's own JSON says what it measured under other names.
        facts.setdefault("who", f"lowrank {facts.get('method')}, {facts.get('precision')}")
        facts.setdefault("accuracy", facts.get("validation", {}).get("accuracy", float("nan")))
        rows[facts["who"]].append(facts)
    mean = lambda who, name: sum(facts[name] for facts in rows[who]) / len(rows[who])
    print(f"{'':24}{'runs':>5}{'steps':>7}{'accuracy':>10}{'seconds':>9}{'ms/step':>9}{'peak_resident MB':>18}")
    for who in sorted(rows):
        steps, seconds = mean(who, "steps"), mean(who, "seconds")
        numbers = f"{mean(who, 'accuracy'):10.4f}{seconds:9.1f}{1000 * seconds / steps:9.1f}{mean(who, 'peak_resident') / 1e6:18.1f}"
        print(f"{who:24}{len(rows[who]):5}{steps:7.0f}{numbers}")
    speed = {who: mean(who, "steps") / mean(who, "seconds") for who in rows}
    for ours in sorted(who for who in rows if who.startswith("lowrank")):
        for theirs in sorted(who for who in rows if who.startswith("PEFT")):
            memory = mean(theirs, "peak_resident") / mean(ours, "peak_resident")
            points = 100 * (mean(ours, "accuracy") - mean(theirs, "accuracy"))
            print(f"{ours} : {theirs}: {speed[ours] / speed[theirs]:.2f}x the speed, 1/{memory:.1f} of the memory, {points:+.2f} points")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("peft")
    for name in ("model", "train", "dev"):
        one.add_argument(name)
    one.add_argument("--seed", type=int, default=0)
    length = one.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=int)
    length.add_argument("--steps", type=int)
    one.add_argument("--sorted", action="store_true")
    one.add_argument("--threads", type=int, default=2)
    commands.add_parser("table").add_argument("files", nargs="+")
    arguments = parser.parse_args()
    peft(arguments) if arguments.command == "peft" else table(arguments.files)


if __name__ == "__main__":
    sys.exit(main())
