# %% [markdown]
# # lowrank from Python
#
# One 4-bit base, adapters that are swapped without copying a weight, training on the same archive.
# Runs on the tiny model in `assets/`, with nothing downloaded: `python examples/python/quickstart.py`.
# Cells begin with `# %%`: Jupyter, VS Code and PyCharm run them one by one.

# %%
import tempfile
from pathlib import Path

import numpy as np

import lowrank

here = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
assets = next(folder / "assets" for folder in (here, *here.parents) if (folder / "assets").is_dir())

base = lowrank.Base.open(assets / "tiny.lrk")
print(base, base.config["layers"], "blocks of width", base.config["dim"])

# %% [markdown]
# ## Adapters
# Opened once, used by any number of sessions; each request names its own.

# %%
pirate = lowrank.Adapter.open(assets / "tiny-pirate.lrk", base=base)
notes = lowrank.Adapter.open(assets / "tiny-notes.lrk", base=base)
session = lowrank.Session(base, context=128)

for adapter in (None, pirate, notes):
    reply = session.generate("Duck and boat:", adapter=adapter, max_tokens=40)
    print(f"[{adapter.name if adapter else 'base'}] {reply.text!r}")

# %% [markdown]
# Their contributions add up, each with a weight; several rows share passes, each under its own.

# %%
print(repr(session.generate("Duck:", adapter=[(pirate, 0.7), (notes, 0.3)], max_tokens=30).text))

rows = ["A fox:", "A tree:", "A lake:"]
for row, reply in zip(rows, session.generate_batch(rows, adapters=[None, pirate, notes], max_tokens=30)):
    print(f"{row} {reply.text!r} ({reply.stop_reason})")

# %% [markdown]
# ## Streams
# Text as soon as it is finished. Other Python threads go on meanwhile, and Ctrl-C ends it.

# %%
with session.stream("Duck and boat:", adapter=pirate, max_tokens=40) as pieces:
    for piece in pieces:
        print(piece, end="", flush=True)
assert pieces.reply is not None
print(f"\n{pieces.reply.completion_tokens} tokens, ended by {pieces.reply.stop_reason}")

# %% [markdown]
# ## Training
# On the archive that also serves. A callback sees each step, and can end the run.

# %%
examples = [
    {"prompt": f"A {what}:", "completion": f" the {what} says hello."}
    for what in ("duck", "boat", "fox", "tree", "lake", "hill")
]
before = lowrank.evaluate(base, examples, completions_only=True)
training = lowrank.train(
    base,
    examples,
    method="qlora",
    rank=8,
    epochs=20,
    learning_rate=5e-3,
    completions_only=True,
    name="hello",
    on_step=lambda step, total, loss: print(f"step {step}/{total}: loss {loss:.3f}")
    if step % 5 == 0
    else None,
)
hello = training.adapter
assert hello is not None
after = lowrank.evaluate(base, examples, adapter=hello, completions_only=True)
print(f"perplexity {before['perplexity']:.2f} -> {after['perplexity']:.2f}")
print(repr(session.generate("A boat:", adapter=hello, max_tokens=30, stop=".").text))
assert after["perplexity"] < before["perplexity"]

# %% [markdown]
# ## Arrays
# The numbers under PEFT's names, and back: to average adapters, to send them somewhere, to look.

# %%
state = hello.state()
name = next(iter(state))
print(f"{len(state)} arrays, {name}: {state[name].dtype} {state[name].shape}")

halved = {key: array * np.float32(0.5) if "lora_B" in key else array for key, array in state.items()}
softer = lowrank.Adapter.from_state(halved, base, config=hello.peft_config(), name="softer")
tokens = base.tokenizer.encode("A boat:")
change = np.abs(session.logits(tokens, adapter=hello) - session.logits(tokens)).max()
softened = np.abs(session.logits(tokens, adapter=softer) - session.logits(tokens)).max()
print(f"logits move by {change:.2f}, with B halved by {softened:.2f}")

with tempfile.TemporaryDirectory() as folder:
    softer.save(Path(folder) / "softer.lrk")
    softer.export_peft(Path(folder) / "peft")
    again = lowrank.Adapter.from_peft(Path(folder) / "peft", base)
    assert again.fingerprint == softer.fingerprint
    print(sorted(path.name for path in (Path(folder) / "peft").iterdir()))

# %% [markdown]
# ## Beforehand
# What a session or a run will take.

# %%
print(f"a session: {lowrank.memory(base, adapter=hello, context=128)['peak_bytes']:,} bytes")
print(f"this training: {lowrank.train_memory(base, data=examples, epochs=20)['peak_bytes']:,} bytes")
