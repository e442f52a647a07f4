"""How fast `lowrank serve` is where adapters differ, change and are many. Prints one line for each figure.

Usage: python3 benches/serve.py LOWRANK BASE [ROUNDS]: the program built with the features cli and serve (release), and a decoder's archive
with a chat template, SmolLM2 for the figures in docs/measurements.md. Needs Python alone; trains the adapters it asks, one step each."""

import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METHODS = ["lora", "lora", "lora", "lora", "lora", "lora", "dora", "dora"]
WORDS = "the boat on a lake was green and old men came to see how slow it went down river in summer rain".split()
SWAPS = 100


class Server:
    def __init__(self, lowrank, base, folder, *more):
        words = [lowrank, "serve", "--base", base, "--name", "base", "--adapters", folder, "--port", "0", *more]
        began = time.monotonic()
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.ready = time.monotonic() - began
        self.port = int(line.split("/v1")[0].rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port)

    def post(self, connection, path, body):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        return reply

    def write(self, model, prompt, tokens):
        """When each piece of a greedy reply came, from the request on; and how many tokens it has."""
        connection, began, times, written = self.connect(), time.monotonic(), [], 0
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        reply = self.post(connection, "/v1/completions", body)
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk["choices"]:
                times.append(time.monotonic() - began)
            elif chunk.get("usage"):
                written = chunk["usage"]["completion_tokens"]
        connection.close()
        return times, written

    def memory(self):
        """Bytes of memory that no file backs."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def text(seed, words):
    pick = random.Random(seed)
    return " ".join(pick.choice(WORDS) for _ in range(words))


def train(lowrank, base, folder):
    data = folder.parent / "data.txt"
    data.write_text("\n\n".join(text(seed, 40) for seed in range(8)))
    for number, method in enumerate(METHODS):
        words = [lowrank, "train", "--base", base, "--data", data, "-o", folder / f"a{number}.lrk", "--method", method]
        words += ["--steps", "1", "--rank", "8", "--seed", str(number), "--target-modules", "q_proj,k_proj,v_proj,o_proj"]
        subprocess.run(words, check=True, capture_output=True)


def together(server, models, tokens):
    """Tokens a second of one request for each model, all at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(models)) as pool:
        written = pool.map(lambda pair: server.write(pair[1], text(pair[0], 20), tokens)[1], enumerate(models))
    return sum(written) / (time.monotonic() - began)


def gaps(server, models, tokens):
    """The times between the tokens of replies that are written at once."""
    with ThreadPoolExecutor(len(models)) as pool:
        replies = pool.map(lambda pair: server.write(pair[1], text(pair[0], 20), tokens)[0], enumerate(models))
        return [after - before for times in replies for before, after in zip(times, times[1:])]


def p99(values):
    return statistics.quantiles(values, n=100)[98]


def swapping(server, folder):
    """Replaces adapters beside those that are asked, until told to end; returns who tells it, and the count."""
    end, count = threading.Event(), [0]

    def run():
        connection, began = server.connect(), time.monotonic()
        while not end.is_set():
            path = f"a{count[0] % 8}.lrk"
            server.post(connection, "/v1/load_lora_adapter", {"lora_name": "swapped", "lora_path": path, "load_inplace": True}).read()
            count[0] += 1
            time.sleep(max(0, began + count[0] / SWAPS - time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    return lambda: (end.set(), thread.join(), count[0])[2]


def main(lowrank, base, rounds):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "adapters"
        folder.mkdir()
        train(lowrank, base, folder)
        several = [f"a{number}" for number in range(8)]
        with Server(lowrank, base, folder) as server:
            together(server, several, 4)
            one, mixed, start, again, calm, busy, swaps = [], [], [], [], [], [], 0
            for turn in range(rounds):
                one.append(together(server, ["a0"] * 8, 48))
                mixed.append(together(server, several, 48))
                prompt = text(1000 + turn, 505)
                start.append(server.write("a1", prompt, 1)[0][0])
                again.append(server.write("a1", prompt, 1)[0][0])
                calm += gaps(server, several, 48)
                stop = swapping(server, folder)
                began = time.monotonic()
                busy += gaps(server, several, 48)
                swaps += stop() / (time.monotonic() - began)
            print(f"8 requests, 8 adapters (2 of DoRA): {statistics.median(mixed):.1f} tokens/s; one adapter: {statistics.median(one):.1f}; ratio {statistics.median(m / o for m, o in zip(mixed, one)):.3f}")
            print(f"a prompt of 505 words: first token after {1e3 * statistics.median(start):.0f} ms, again {1e3 * statistics.median(again):.0f} ms; ratio {statistics.median(b / a for a, b in zip(start, again)):.3f}")
            print(f"between tokens, p99: {1e3 * p99(calm):.1f} ms; with {swaps / rounds:.0f} replacements a second {1e3 * p99(busy):.1f} ms; ratio {p99(busy) / p99(calm):.3f}")
        with Server(lowrank, base, folder, "--batch", "8", "--context", "2048") as server:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda seed: server.write("base", text(seed, 1900), 8), range(8)))
            print(f"8 sequences of 2,048 tokens: {server.memory() / 1e6:.0f} MB beside the mapped base, the cache of keys and values among them")
        for number in range(10_000 - len(METHODS)):
            os.link(folder / f"a{number % 8}.lrk", folder / f"b{number}.lrk")
        with Server(lowrank, base, folder, "--resident", "64") as server:
            cold, warm = [], []
            for number in range(200):
                if number == 100:
                    half = server.memory()
                prompt = text(number, 12)
                cold.append(server.write(f"b{number}", prompt, 1)[0][0])
                warm.append(server.write(f"b{number}", text(-number - 1, 12), 1)[0][0])
            extra = statistics.median(c - w for c, w in zip(cold, warm))
            print(f"10,000 adapters: ready after {server.ready:.2f} s; a cold one answers {1e3 * extra:.1f} ms later; 100 more with 64 that stay take {(server.memory() - half) / 1e6:.1f} MB")


main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5)
