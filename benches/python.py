"""What Python adds to each generated token, as paired runs of the library and of a stream.

    python benches/python.py BASE [--rounds 9] [--tokens 96]

`Session.generate` decodes without the interpreter: it is what a Rust program pays. `Session.stream` comes
back to Python for every piece of text. The order of the two changes from round to round; the figure is
the median of the rounds' ratios. The command line says its own decode time with `--json`, for a
comparison with another process (`--cli PROGRAM`).
"""

import argparse
import json
import statistics
import subprocess
import time

import lowrank

PROMPT = "Once upon a time there was a lighthouse keeper who"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cli")
    arguments = parser.parse_args()
    base = lowrank.Base.open(arguments.base)
    context = min(512, base.config["context"])
    session = lowrank.Session(base, threads=arguments.threads, context=context)

    def generate(tokens: int) -> int:
        reply = session.generate(PROMPT, max_tokens=tokens, temperature=0.8, seed=1)
        return reply.completion_tokens

    def stream(tokens: int) -> int:
        pieces = session.stream(PROMPT, max_tokens=tokens, temperature=0.8, seed=1)
        text = ""
        for piece in pieces:
            text += piece
        assert pieces.reply is not None
        return pieces.reply.completion_tokens

    def cli(tokens: int) -> float:
        command = [
            arguments.cli, "generate", "--base", arguments.base, "--prompt", PROMPT, "--tokens",
            str(tokens), "--temperature", "0.8", "--seed", "1", "--threads", str(arguments.threads),
            "--context", str(context), "--json",
        ]  # fmt: skip
        printed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return printed["timings"]["decode_seconds"] / len(printed["tokens"])

    def per_token(work: object) -> float:
        """Seconds a token beyond the first, so that the prompt does not count."""
        if work is cli:
            return cli(arguments.tokens)
        assert callable(work)
        start = time.perf_counter()
        work(1)
        first = time.perf_counter() - start
        start = time.perf_counter()
        count = work(arguments.tokens)
        return (time.perf_counter() - start - first) / (count - 1)

    works = {"generate": generate, "stream": stream, **({"cli": cli} if arguments.cli else {})}
    for work in works.values():
        per_token(work)
    rounds: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        order = list(works)[:: 1 if number % 2 == 0 else -1]
        rounds.append({name: per_token(works[name]) for name in order})
    for name in works:
        median = statistics.median(taken[name] for taken in rounds)
        print(f"{name:>9}: {median * 1e3:.3f} ms a token")
    for name in list(works)[1:]:
        over = statistics.median(taken[name] / taken["generate"] for taken in rounds)
        print(f"{name:>9} beside generate: {100 * (over - 1):+.2f} %")
    if arguments.cli:
        over = statistics.median(taken["stream"] / taken["cli"] for taken in rounds)
        print(f"   stream beside the command line: {100 * (over - 1):+.2f} %")


if __name__ == "__main__":
    main()
