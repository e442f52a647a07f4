"""Counts the assembled inner loop of every product kernel and prints a table; started by predict.sh.

A loop is told from its backward branch; the inner loop of a kernel is the first of those with the most multiply-adds. How many
weights one turn of it takes follows from those: of 8 weights and one vector 8 multiply-adds, and one with the scale. The bounds:

    issue   128 lane-instructions a clock and multiprocessor / instructions per weight
    loads   128 bytes a clock and multiprocessor from shared memory and L1 / bytes per weight

Both are ceilings: nothing waits, nothing stalls. Times bytes per weight, multiprocessors and clock they are bytes a second.

Then the products on tensor cores, of which the loop with the most tensor operations counts, 32 weights of a lane a turn. Then the
products of training: a turn of their loop is 256 multiply-adds of a lane, and its instructions, both sides of branches
counted, bound the multiply-adds a second.
"""

import os
import re
import subprocess
import tempfile

# Multiprocessors, clock in GHz, what a copy reaches in GB/s (of 2,039 and 3,350 on paper: 90 %), bytes of shared memory, of a card.
CARDS = {
    80: ("A100 80 GB", 108, 1.41, 1835, 164 << 10),
    90: ("H100 SXM", 132, 1.755, 3000, 228 << 10),
}
# Of a weight with its scales.
BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1 + 2 / 64, "f16": 2, "f32": 4}
FILES = {"nf4": "nf4", "int8": "dense", "f16": "dense", "f32": "dense"}
WIDTH = re.compile(r"\.(U?S?8|U?S?16|64|128)\b")
SIZES = {"U8": 1, "S8": 1, "8": 1, "U16": 2, "S16": 2, "16": 2, "64": 8, "128": 16}


def tool(name, *arguments):
    return subprocess.run([os.environ[name], *arguments], check=True, capture_output=True, text=True)


def registers(log):
    """Registers and shared memory of every kernel."""
    found = re.findall(r"entry function '(\w+)'.*?Used (\d+) registers.*?\n", log, re.S)
    shared = dict(re.findall(r"entry function '(\w+)'(?:(?!entry function).)*?(\d+) bytes smem", log, re.S))
    return {name: (int(count), int(shared.get(name, 0))) for name, count in found}


def inner_loop(sass, kernel, most="FFMA"):
    """The instructions of a kernel's inner loop: that with the most of some instruction."""
    body = sass.split(f".text.{kernel}:", 1)[1].split("\n.text.", 1)[0].split("\n//-", 1)[0]
    lines, labels, loops = [], {}, []
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?) ;", line):
            lines.append(found[1])
            target = re.search(r"BRA.*`\((\.L_x_\d+)\)", found[1])
            if target and target[1] in labels and labels[target[1]] < len(lines) - 1:
                loops.append((labels[target[1]], len(lines)))
    inner = [(a, b) for a, b in loops if not any((a, b) != (c, d) and a <= c and d <= b for c, d in loops)]
    count = lambda loop: sum(most in line for line in lines[slice(*loop)])
    return lines[slice(*max(inner, key=count))]


def loaded(lines):
    """Bytes that a lane takes from shared memory and L1."""
    total = 0
    for line in lines:
        if found := re.search(r"\b(LDS|LDG)\b(\S*)", line):
            width = WIDTH.search(found[2].replace(".E", ""))
            total += SIZES[width[1]] if width else 4
    return total


def resident(count, memory, shared):
    """Blocks of 256 threads on a multiprocessor: registers are given out in eights per thread and in 256 per warp, shared memory
    with 1 KiB beside it."""
    return min(65536 // (-(-count // 8) * 8 * 256), 2048 // 256, shared // (memory + 1024))


def disassembled(file, arch, folder):
    """The code of a file of kernels, and their registers and shared memory."""
    cubin = os.path.join(folder, f"{file}.{arch}")
    used = registers(tool("PTXAS", f"-arch=sm_{arch}", "-v", f"{file}.ptx", "-o", cubin).stderr)
    return tool("NVDISASM", "-c", cubin).stdout, used


def tensor():
    """The table of the products on tensor cores."""
    print("| kernel | card | registers | blocks | instructions / weight | bytes loaded / weight | tensor operations / 1,024 weights | "
          "issue allows GB/s | loads allow GB/s | of a copy |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch, (card, units, clock, copy, shared) in CARDS.items():
            sass, used = disassembled("tensor", arch, folder)
            for vectors in (8, 16):
                kernel = f"tensor_nf4_{vectors}"
                count, memory = used[kernel]
                lines = inner_loop(sass, kernel, "HMMA")
                each, bytes_ = len(lines) / 32, loaded(lines) / 32
                issue, loads = (128 / x * units * clock * BYTES["nf4"] for x in (each, bytes_))
                operations = sum("HMMA" in line for line in lines)
                share = min(issue, loads, copy) / copy
                print(f"| `{kernel}` | {card} | {count} | {resident(count, memory, shared)} | {each:.2f} | {bytes_:.2f} | {operations} | "
                      f"{issue:,.0f} | {loads:,.0f} | {share:.0%} |")


def training():
    """The table of the products of training."""
    print("| kernel | card | registers | blocks | instructions / multiply-add | issue allows multiply-adds / s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch, (card, units, clock, _, shared) in CARDS.items():
            sass, used = disassembled("training", arch, folder)
            for form in BYTES:
                for way in ("forward", "backward"):
                    count, memory = used[f"{way}_{form}"]
                    each = len(inner_loop(sass, f"{way}_{form}")) / 256
                    print(f"| `{way}_{form}` | {card} | {count} | {resident(count, memory, shared)} | {each:.2f} | "
                          f"{128 / each * units * clock / 1e3:.1f} T |")


def main():
    print("| kernel | card | registers | blocks | warps | instructions / weight | bytes loaded / weight | "
          "issue allows GB/s | loads allow GB/s | of a copy |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch, (card, units, clock, copy, shared) in CARDS.items():
            sass, used = {}, {}
            for file in sorted(set(FILES.values())):
                sass[file], more = disassembled(file, arch, folder)
                used.update(more)
            for form, file in FILES.items():
                for vectors, size in ((1, ""), (1, "_large"), (4, ""), (8, "")):
                    kernel = f"product_{form}_{vectors}{size}"
                    if kernel not in used:
                        continue
                    count, memory = used[kernel]
                    blocks = resident(count, memory, shared)
                    lines = inner_loop(sass[file], kernel)
                    fused = sum("FFMA" in line for line in lines)
                    weights = max(16, round(fused / (vectors * 9 / 8) / 16) * 16)
                    each, bytes_ = len(lines) / weights, loaded(lines) / weights
                    # GB/s of weights: 128 lanes, or 128 bytes, a clock.
                    issue = 128 / each * units * clock * BYTES[form]
                    loads = 128 / bytes_ * units * clock * BYTES[form]
                    share = min(issue, loads, copy) / copy
                    print(f"| `{kernel}` | {card} | {count} | {blocks} | {blocks * 8} | {each:.2f} | {bytes_:.2f} | "
                          f"{issue:,.0f} | {loads:,.0f} | {share:.0%} |")


main()
print()
tensor()
print()
training()
