"""Runs lowrank and its peers alternately and prints one table of ratios.

    compare.py LOWRANK NF4_BENCH DIR TEXT

DIR has base.lrk, rank8-f16.lrk, rank8-int8.lrk and the two GGUF files. A round runs every contestant once with the same number of
threads and tokens; shown are medians over LOWRANK_PEERS_ROUNDS rounds (5 if not set) and the median of the rounds' ratios, so that
what slows a whole round cancels out. llama.cpp computes the logits of the last token only, keeps keys and values in f16 and samples
nothing, as `lowrank bench` does.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import llama_cpp

median = statistics.median
ROUNDS = int(os.environ.get("LOWRANK_PEERS_ROUNDS", "5"))
PROMPTS, TOKENS, FILLED, LONGEST = (128, 512), 64, 16, 512
LOWRANK, NF4, WORK, TEXT = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4]
PRECISIONS = ("exact", "fast")
# Our contestants: how a base is run. `--load` copies it into large pages instead of mapping its file.
WAYS = {"Exact": ("--precision", "exact"), "Fast": ("--precision", "fast"), "Fast --load": ("--precision", "fast", "--load")}
PEERS = ("Q4_0", "IQ4_NL")


def load():
    with open("/proc/loadavg") as file:
        return float(file.read().split()[0])


def ours(command, *arguments):
    output = subprocess.run([LOWRANK, command, "--base", WORK / "base.lrk", "--json", *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    return json.loads(output.stdout)


def bench(threads, way, prompt, *more, rounds=1):
    sizes = ("--prompt-tokens", prompt, "--tokens", TOKENS, "--rounds", rounds)
    return ours("bench", "--threads", threads, *WAYS[way], *sizes, *more)


class LlamaCpp:
    """A model in llama.cpp, driven through its C interface."""

    def __init__(self, file):
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.no_perf = 1024, LONGEST, LONGEST, True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.ids = (ctypes.c_int32 * LONGEST)(*(i * 97 % self.vocab for i in range(LONGEST)))

    def feed(self, first, count):
        part = ctypes.cast(ctypes.byref(self.ids, 4 * first), ctypes.POINTER(ctypes.c_int32))
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(part, count)) != 0:
            sys.exit("llama_decode failed")

    def timed(self, filled, chunks):
        """Tokens per second of `chunks`, lengths of batches, behind `filled` tokens."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        if filled:
            self.feed(0, filled)
        llama_cpp.llama_synchronize(self.context)
        start, first = time.perf_counter(), 0
        for count in chunks:
            self.feed(first, count)
            first += count
        llama_cpp.llama_synchronize(self.context)
        return first / (time.perf_counter() - start)

    def round(self, threads):
        llama_cpp.llama_set_n_threads(self.context, threads, threads)
        rates = {f"prefill {prompt}": self.timed(0, [prompt]) for prompt in PROMPTS}
        return rates | {"decode": self.timed(FILLED, [1] * TOKENS)}


def our_round(threads, way):
    rates = {}
    for prompt in PROMPTS:
        facts = bench(threads, way, prompt)
        rates[f"prefill {prompt}"] = facts["prefill_tokens_per_s"]
        rates |= {"decode": facts["decode_tokens_per_s"], "share": facts["read_gb_per_s"] / facts["measured_read_gb_per_s"]}
    return rates


def row(*cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def models():
    peers = {name: LlamaCpp(WORK / f"{name}.gguf") for name in PEERS}
    row("SmolLM2-135M", "threads", *(f"llama.cpp {name}" for name in PEERS), *(f"lowrank {way}" for way in WAYS), *(f"ratio {way}" for way in WAYS))
    row(*["---"] * (2 + len(PEERS) + 2 * len(WAYS)))
    shares = {}
    for threads in (1, 2):
        for peer in peers.values():
            peer.round(threads)
        rounds = [{n: p.round(threads) for n, p in peers.items()} | {way: our_round(threads, way) for way in WAYS} for _ in range(ROUNDS)]
        for what in ["decode", *(f"prefill {prompt}" for prompt in PROMPTS)]:
            middle = {who: median(r[who][what] for r in rounds) for who in (*PEERS, *WAYS)}
            faster = max(PEERS, key=middle.get)
            ratios = (median(r[way][what] / r[faster][what] for r in rounds) for way in WAYS)
            row(f"{what}, tokens/s", str(threads), *(f"{middle[who]:.0f}" for who in middle), *(f"{ratio:.2f}x" for ratio in ratios))
        for way in WAYS:
            shares[threads, way] = median(r[way]["share"] for r in rounds)
    print("\ndecode reads, of the measured read bandwidth: ", end="")
    print(", ".join(f"{100 * share:.0f} % ({way}, {threads} threads)" for (threads, way), share in shares.items()))


def perplexity():
    exact, fast = (ours("evaluate", "--precision", p, "--data", TEXT, "--max-length", 512) for p in PRECISIONS)
    difference = 100 * (fast["perplexity"] / exact["perplexity"] - 1)
    print(f"perplexity over {exact['scored']} scored tokens: Exact {exact['perplexity']:.4f}, Fast {fast['perplexity']:.4f} ({difference:+.2f} %)")


def adapters():
    print()
    row("adapter, rank 8 on every linear layer, decode", "threads", "bytes added", *(f"time added, {way}" for way in WAYS))
    row(*["---"] * (3 + len(WAYS)))
    for values in ("f16", "int8"):
        for threads in (1, 2):
            results = [bench(threads, way, 128, "--adapter", WORK / f"rank8-{values}.lrk", rounds=ROUNDS) for way in WAYS]
            bytes_added = results[0]["adapter_bytes_per_token"] / results[0]["weight_bytes_per_token"]
            row(values, str(threads), f"{100 * bytes_added:+.1f} %", *(f"{100 * r['adapter_overhead']:+.1f} %" for r in results))


def products():
    """NF4 [4096, 4096] times a vector on one core. bitsandbytes has two ways: dequantize and multiply in f32, and, in inference on CPUs
    that have AVX-512 with bfloat16, a fused product in bfloat16 on weights that it packs again at the first call."""
    import bitsandbytes
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    x = torch.randn(1, 4096)
    weights, state = bitsandbytes.functional.quantize_4bit(torch.randn(4096, 4096), quant_type="nf4", blocksize=64)
    exact = bitsandbytes.functional.dequantize_4bit(weights, state).double()
    layer = bitsandbytes.nn.Linear4bit(4096, 4096, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = bitsandbytes.nn.Params4bit(exact.float(), requires_grad=False, quant_type="nf4")
    layer = layer.to("cpu").eval()
    ways = {"matmul_4bit": lambda: bitsandbytes.matmul_4bit(x, weights.t(), quant_state=state), "Linear4bit": lambda: layer(x)}

    def seconds(way):
        times = []
        for _ in range(9):
            start = time.perf_counter()
            way()
            times.append(time.perf_counter() - start)
        return median(times)

    errors = {}
    with torch.inference_mode():
        for name, way in ways.items():
            # Relative to the sum of |w x|, as our own bounds are. The first call packs weights.
            way()
            difference = (way().double() - x.double() @ exact.t()).abs() / (x.double().abs() @ exact.abs().t())
            errors[name] = difference.max().item()
        rounds = []
        for _ in range(ROUNDS):
            mine = json.loads(subprocess.run([NF4], stdout=subprocess.PIPE, check=True).stdout)
            rounds.append(mine | {name: seconds(way) for name, way in ways.items()})
    rate = lambda who: 4096 * 4096 / median(r[who] for r in rounds) / 1e9
    print()
    row("NF4 4096x4096 times a vector, 1 thread", "G weights/s", "error / sum of abs(w x)", *(f"ratio to {name}" for name in ways))
    row(*["---"] * 5)
    names = {name: f"bitsandbytes {bitsandbytes.__version__} {name}" for name in ways}
    for who, name in (names | {p: f"lowrank {p.title()} ({rounds[0]['isa']})" for p in PRECISIONS}).items():
        error = f"{errors[who]:.0e}" if who in errors else {"exact": "at most 1e-06", "fast": "at most 1e-02"}[who]
        row(name, f"{rate(who):.2f}", error, *(f"{median(r[way] / r[who] for r in rounds):.2f}x" for way in ways))


busy = load()
print(f"llama-cpp-python {llama_cpp.__version__}; {ROUNDS} rounds; load average {busy} before", flush=True)
if busy > 0.7:
    print("LOADED: other programs ran at the same time; the figures are no measurement.")
models()
perplexity()
adapters()
products()
