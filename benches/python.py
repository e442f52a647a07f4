"""What Python adds to each generated token: paired runs of `Session.stream` and `Session.generate`.

    python benches/python.py BASE [--rounds 15] [--tokens 64]

`generate` decodes without the interpreter: it is what a Rust program pays. `stream` comes back to Python for
every piece of text, and joins the pieces. Both decode on the thread that asks, so what they take is that
thread's processor time, which other programs on the machine hardly change. The order of the two changes
from round to round; the figure is the median of the rounds' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import lowrank

PROMPT = "Once upon a time there was a lighthouse keeper who"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    base = lowrank.Base.open(arguments.base)
    context = min(512, base.config["context"])
    session = lowrank.Session(base, threads=1, context=context)

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

    def per_token(work: Callable[[int], int]) -> float:
        """Seconds a token beyond the first, so that the prompt does not count."""
        start = time.thread_time()
        work(1)
        first = time.thread_time() - start
        start = time.thread_time()
        count = work(arguments.tokens)
        return (time.thread_time() - start - first) / (count - 1)

    works = [generate, stream]
    for work in works:
        per_token(work)
    rounds: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        order = works[:: 1 if number % 2 == 0 else -1]
        rounds.append({work.__name__: per_token(work) for work in order})
    for work in works:
        median = statistics.median(taken[work.__name__] for taken in rounds)
        print(f"{work.__name__:>9}: {median * 1e3:.3f} ms a token")
    ratios = sorted(taken["stream"] / taken["generate"] for taken in rounds)
    low, middle, high = ratios[len(ratios) // 4], statistics.median(ratios), ratios[-1 - len(ratios) // 4]
    print(f"stream beside generate: {100 * (middle - 1):+.2f} % ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})")


if __name__ == "__main__":
    main()
