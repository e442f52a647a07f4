"""The table of claims.sh, from the JSON files that its runs left in a folder.

    claims.py FOLDER --steps N --seeds N --threads N

A promise `shows` if the whole of it was measured, `shows in part` if the ratio goes the promised way by more than a few percent, else
it `does not show`. Accuracies have to differ by more than noise: two standard errors of the difference of means over seeds."""

import argparse
import csv
import json
import math
from pathlib import Path


def verdict(measured, claimed, least):
    """Of a ratio: all of the claim, or at least `least`."""
    return "shows" if measured >= claimed else "shows in part" if measured >= least else "does not show"


def memory(load):
    peak = {method: load(f"memory.{method}")["peak_bytes"] for method in ("full", "lora", "qlora", "lora-fa")}
    told = lambda a, b: f"{peak[a] / 1e6:.0f} MB : {peak[b] / 1e6:.0f} MB = {peak[a] / peak[b]:.2f}x"
    for other in ("lora", "qlora"):
        said = verdict(peak["full"] / peak[other], 3, 1.05)
        yield f"`{other}` trains in a third of the memory of `full`", "2106.09685", told("full", other), said
    said = verdict(peak["lora"] / peak["lora-fa"], 1.4, 1.05)
    yield "`lora-fa` trains in up to 1.4x less memory than `lora`", "2308.03303", told("lora", "lora-fa"), said


def smoothed(losses):
    """Means of the last twentieth of all steps, of five at least, from the first whole one on: as `lowrank compare` has them."""
    window = min(max(-(-len(losses) // 20), 5), len(losses))
    return window, [sum(losses[end - window : end]) / window for end in range(window, len(losses) + 1)]


def faster(folder, load, seeds):
    """Mean first steps at which lora and lora+ are at what lora ends at, with the same seed."""
    rows = list(csv.DictReader((folder / "rank8" / "losses.csv").open()))
    steps = {"lora": [], "lora+": []}
    for seed in range(seeds):
        lora = [float(row["lora" if seeds == 1 else f"lora seed {seed}"]) for row in rows]
        end = smoothed(lora)[1][-1]
        for name, losses in (("lora", lora), ("lora+", load(f"plus.{seed}")["losses"])):
            window, means = smoothed(losses)
            steps[name] += [at + window for at, mean in enumerate(means) if mean <= end][:1]
    mean = {name: sum(found) / max(1, len(found)) for name, found in steps.items()}
    reached = len(steps["lora+"])
    told, said = f"{reached} of {seeds} seeds came there", "does not show"
    if reached == seeds:
        ratio = mean["lora"] / mean["lora+"]
        told, said = f"{mean['lora']:.0f} : {mean['lora+']:.0f} steps = {ratio:.2f}x", verdict(ratio, 2, 1.1)
    yield "`lora+` comes up to 2x sooner to the training loss that `lora` ends at", "2402.12354", told, said


def better(lora, doras, seeds):
    points = lambda row: f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_deviation']:.2f}"
    for claim, dora in doras:
        noise = 2 * math.hypot(dora["accuracy_deviation"], lora["accuracy_deviation"]) / math.sqrt(seeds)
        gain = dora["accuracy"] - lora["accuracy"]
        told = f"{points(dora)} % : {points(lora)} %, {100 * gain:+.2f} points, noise {100 * noise:.2f}"
        yield claim, "2402.09353", told, "shows" if gain > noise else "does not show"


def search(load, times):
    seconds = {(method, int(rank)): float(time) for method, rank, time in times}
    ranks = sorted(rank for method, rank in seconds if method == "lora")
    one, all_ranks = seconds["dylora", max(ranks)], sum(seconds["lora", rank] for rank in ranks)
    dylora = load(f"choose.dylora.{max(ranks)}")
    best = max((load(f"choose.lora.{rank}")["validation"]["accuracy"], -rank) for rank in ranks)
    told = f"{all_ranks:.0f} s : {one:.0f} s = {all_ranks / one:.1f}x; it chose rank {dylora['rank']} at "
    told += f"{100 * dylora['validation']['accuracy']:.1f} %, the best of the others is rank {-best[1]} at {100 * best[0]:.1f} %"
    yield f"`dylora` finds a rank 4x to 7x faster than training ranks 1 to {max(ranks)} one by one", "2210.07558", told, verdict(all_ranks / one, 4, 1.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in ("steps", "seeds", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    load = lambda name: json.loads((arguments.folder / f"{name}.json").read_text())
    rows = {row["method"]: row for row in load("rank8")["methods"]}
    half = load("rank4")["methods"][0]
    times = [line.split("\t") for line in (arguments.folder / "seconds.tsv").read_text().splitlines()]
    doras = [("`dora` is more accurate than `lora` of the same rank, 8", rows["dora"]), ("`dora` is so at half of `lora`'s rank, 4", half)]
    lines = [*memory(load), *faster(arguments.folder, load, arguments.seeds), *search(load, times), *better(rows["lora"], doras, arguments.seeds)]
    print(
        f"\nall-MiniLM-L6-v2 (22.7 M parameters), SST-2, all linear layers, rank 8 where none is named, alpha twice the rank, batches of 32, "
        f"learning rate 2e-3 (`lora+` 5e-4, 16 times that for B), {arguments.threads} threads. Memory: `peak_bytes` of two steps on the 64 "
        f"longest training sentences, f32 base, `qlora` on NF4. The rest: {arguments.steps} steps a run ({arguments.steps * 32} of 6,920 "
        f"sentences), {arguments.seeds} seeds for losses and accuracies (872 sentences of the dev file, mean ± standard deviation), one for "
        f"the search of ranks (processor seconds of the commands, validation on every fourth sentence of the dev file).\n"
    )
    print("| promise | paper | measured | |\n|---|---|---|---|")
    for claim, paper, measured, said in lines:
        print(f"| {claim} | [{paper}](https://arxiv.org/abs/{paper}) | {measured} | {said} |")


if __name__ == "__main__":
    main()
