#!/usr/bin/env python3
"""What prompt lookup gains, by kind of text: decode tokens per second without and with it, and whether the tokens are the same.

    python3 benches/lookup.py target/release/lowrank base.lrk [--adapter a.lrk] [--lookup 8] [--rounds 5] [--threads 1] [more options of generate]

Both sides take turns; figures are medians of the rounds. Prompts are in this file but for the summary, which is of the GNU GPL
(/usr/share/common-licenses/GPL-3). `told` and `sampled` are what a lookup has little to say about; it must not cost anything there.
"""

import argparse
import json
import statistics
import subprocess
import sys

CODE = '''class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def peek(self):
        if not self.items:
            raise IndexError("peek into an empty stack")
        return self.items[-1]

    def is_empty(self):
        return not self.items
'''

LETTER = """Dear Mr. Fuller, thank you for your order of 14 May. We are sorry to tell you that the blue lamp which you have ordered \
is out of stock until the end of June. We can send you the green lamp at the same price, or the blue lamp in the first week of July. \
Please let us know until 28 May which of the two you would like to have. If we do not hear from you, we will send you the blue lamp \
as soon as it is in stock. The other parts of your order were sent to you this morning and should be with you on Friday. \
Yours sincerely, Anna Berger, Lamps and Lights Ltd."""


def prompts():
    with open("/usr/share/common-licenses/GPL-3") as file:
        preamble = file.read(3200)
    chat = lambda text: ["--chat", "--prompt", text]
    return {
        "summary": chat(f"Summarize the following text.\n\n{preamble}"),
        "edit": chat(f"Write this letter again with \"Ms. Miller\" in place of \"Mr. Fuller\" and change nothing else:\n\n{LETTER}"),
        "code": chat(f"Rename the class Stack to Pile in this Python code and print all of it:\n\n```python\n{CODE}```"),
        "more code": ["--prompt", CODE + "\n\nclass Queue:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"],
        "told": chat("How do tides work?"),
        "sampled": chat("Write a story about a dragon who is afraid of fire.")
        + ["--temperature", "0.8", "--top-p", "0.95", "--seed", "5"],
    }


def run(program, options):
    done = subprocess.run([program, "generate", "--json", *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout)
    return found, found["timings"]["decode_tokens_per_s"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("base")
    parser.add_argument("--lookup", default="8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", default="192")
    arguments, more = parser.parse_known_args()
    print(f"{'text':10} {'tokens':>6} {'without':>8} {'with':>8} {'ratio':>6} {'guessed':>8} {'right':>6}  same tokens")
    for name, prompt in prompts().items():
        options = ["--base", arguments.base, "--tokens", arguments.tokens, *prompt, *more]
        times = ([], [])
        for _ in range(arguments.rounds):
            plain, speed = run(arguments.program, options)
            times[0].append(speed)
            found, speed = run(arguments.program, [*options, "--lookup", arguments.lookup])
            times[1].append(speed)
        before, after = map(statistics.median, times)
        same = "yes" if plain["tokens"] == found["tokens"] else "no"
        counts = found.get("lookup", {"guessed": 0, "right": 0})
        print(
            f"{name:10} {len(found['tokens']):6} {before:8.0f} {after:8.0f} {after / before:6.2f} {counts['guessed']:8} {counts['right']:6}  {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
