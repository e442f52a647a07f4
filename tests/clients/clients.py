"""openai-python and langchain-openai talk to `lowrank serve`; what they get is what the command line gives.

Usage: clients.py LOWRANK FOLDER ENCODER: the program built with the features cli and serve, what examples/quickstart.sh left (SmolLM2
and two adapters), and an encoder's archive. Needs the packages of requirements.txt beside it."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import OpenAI

STYLES = Path(__file__).parent.parent.parent / "examples/style"
QUESTIONS = ["hello", "good morning", "what is tea?", "one two three"]
ADAPTERS = ["notes", "pirate"]


def prepare(work, folder):
    (folder / "adapters").mkdir()
    for name in ADAPTERS:
        shutil.copy(work / f"{name}.lrk", folder / "adapters")
    # A directory as PEFT saves it is an adapter too.
    shutil.copytree(STYLES / "pirate", folder / "adapters/peft")
    (folder / "keys").write_text("sk-ask\n")
    (folder / "admin").write_text("sk-admin\n")


def alone(lowrank, work, model, question, tokens):
    words = [lowrank, "generate", "--base", work / "base.lrk", "--chat", "--prompt", question, "--tokens", str(tokens), "--json", "--precision", "exact"]
    if model in ADAPTERS:
        words += ["--adapter", work / f"{model}.lrk"]
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)["text"]


def fails(kind, call):
    try:
        call()
    except kind as error:
        assert error.body["message"], error.body
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def ask(client, model, question, tokens, **more):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=model, messages=messages, max_tokens=tokens, temperature=0, **more)


def check_chat(client, lowrank, work, base):
    models = [base, *ADAPTERS]
    wanted = {(model, question): alone(lowrank, work, model, question, 12) for model in models for question in QUESTIONS}
    assert len(set(wanted.values())) > len(QUESTIONS), "the adapters differ"

    def one(pair):
        reply = ask(client, *pair, 12)
        assert reply.choices[0].message.content == wanted[pair], (pair, reply, wanted[pair])
        assert reply.usage.completion_tokens <= 12 and reply.usage.total_tokens > reply.usage.completion_tokens

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, list(wanted) * 4))
    for pair, text in wanted.items():
        chunks = list(ask(client, *pair, 12, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
        assert chunks[-1].usage.completion_tokens > 0 and chunks[0].choices[0].delta.role == "assistant"
    again = ask(client, "notes", QUESTIONS[2], 12)
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    parts = [{"type": "text", "text": QUESTIONS[0]}]
    reply = client.chat.completions.create(model=base, messages=[{"role": "user", "content": parts}], max_completion_tokens=12, temperature=0)
    assert reply.choices[0].message.content == wanted[base, QUESTIONS[0]]
    assert len(ask(client, base, "hello", 5, n=3).choices) == 3
    for part in client.completions.create(model=base, prompt="hello", max_tokens=5, temperature=0, stream=True):
        assert part.choices[0].text is not None
    print(f"chat, completions, streams: {len(wanted)} replies as the command line gives them, each several times")


def check_vectors(client, url, lowrank, encoder, folder):
    texts = [*QUESTIONS, "Knives stay sharp on wood. " * 8]
    words = [lowrank, "embed", "--base", encoder, "-o", folder / "vectors.npy"]
    subprocess.run([*words, *(word for text in texts for word in ("--text", text))], check=True, capture_output=True)
    data = (folder / "vectors.npy").read_bytes()
    numbers = data[10 + struct.unpack("<H", data[8:10])[0] :]
    dim = len(numbers) // 4 // len(texts)
    wanted = [list(struct.unpack(f"<{dim}f", numbers[4 * dim * row :][: 4 * dim])) for row in range(len(texts))]
    # The client asks for base64 unless told otherwise.
    for more in ({}, {"encoding_format": "float"}):
        reply = client.embeddings.create(model="encoder", input=texts, **more)
        found = [[struct.unpack("<f", struct.pack("<f", value))[0] for value in row.embedding] for row in reply.data]
        assert found == wanted, more
        assert reply.usage.total_tokens > len(texts)
    # Without this, the client cuts texts by the tokens of OpenAI's own models.
    chain = OpenAIEmbeddings(base_url=url, api_key="sk-ask", model="encoder", check_embedding_ctx_length=False)
    assert chain.embed_query(texts[0]) == client.embeddings.create(model="encoder", input=texts[0]).data[0].embedding
    assert len(chain.embed_documents(texts)) == len(texts)
    fails(openai.BadRequestError, lambda: client.embeddings.create(model="encoder", input="word " * 3000))
    print("embeddings: those of the command line, as numbers and as base64; langchain-openai's too")


def check_errors(client, url, base):
    fails(openai.NotFoundError, lambda: ask(client, "nobody", "hello", 4))
    error = fails(openai.BadRequestError, lambda: ask(client, base, "hello", 4, logprobs=True))
    assert error.param == "logprobs" and error.code == "unsupported_parameter", error
    fails(openai.BadRequestError, lambda: ask(client, base, "hello " * 5000, 4))
    fails(openai.AuthenticationError, lambda: ask(OpenAI(base_url=url, api_key="sk-wrong", max_retries=0), base, "hello", 4))
    print("errors: the client's own exceptions")


def check_adapters(client, url, base):
    names = [model.id for model in client.models.list()]
    assert names == [base, "encoder", "notes", "peft", "pirate"], names
    same = lambda a, b: ask(client, a, "hello", 8).choices[0].message.content == ask(client, b, "hello", 8).choices[0].message.content
    assert same("peft", "pirate") and not same("notes", "pirate")
    assert client.models.retrieve("notes").parent == base
    admin = OpenAI(base_url=url, api_key="sk-admin")
    load = lambda client, **body: client.post("/load_lora_adapter", cast_to=str, body=body)
    fails(openai.AuthenticationError, lambda: load(client, lora_name="new", lora_path="notes.lrk"))
    load(admin, lora_name="new", lora_path="notes.lrk")
    assert same("new", "notes")
    load(admin, lora_name="new", lora_path="pirate.lrk", load_inplace=True)
    assert same("new", "pirate")
    fails(openai.ConflictError, lambda: load(admin.with_options(max_retries=0), lora_name="new", lora_path="notes.lrk", expected_generation=1))
    admin.post("/unload_lora_adapter", cast_to=str, body={"lora_name": "new"})
    fails(openai.NotFoundError, lambda: ask(client, "new", "hello", 4))
    print("adapters: listed, loaded, replaced, unloaded; a PEFT directory serves as it is")


def main(lowrank, work, encoder):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(work, folder)
        words = [lowrank, "serve", "--base", work / "base.lrk", "--name", "smol", "--adapters", folder / "adapters", "--port", "0", "--precision", "exact"]
        words += ["--embed-base", encoder, "--embed-name", "encoder"]
        words += ["--api-key-file", folder / "keys", "--admin-key-file", folder / "admin"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().split(":", 3)
            url = ":".join(url[:3])
            client = OpenAI(base_url=url, api_key="sk-ask")
            check_chat(client, lowrank, work, "smol")
            check_vectors(client, url, lowrank, encoder, folder)
            check_errors(client, url, "smol")
            check_adapters(client, url, "smol")
            chain = ChatOpenAI(base_url=url, api_key="sk-ask", model="notes", temperature=0, max_tokens=12)
            assert chain.invoke("hello").content == alone(lowrank, work, "notes", "hello", 12)
            assert "".join(part.content for part in chain.stream("hello")) == alone(lowrank, work, "notes", "hello", 12)
            print("langchain-openai: invoke and stream")
            with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as metrics:
                text = metrics.read().decode()
            gauges = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            assert gauges['vllm:num_requests_running{model_name="smol"}'] == "0", gauges
            with ThreadPoolExecutor(4) as pool:
                asked = [pool.submit(ask, client, "notes", "hello", 200) for _ in range(4)]
                time.sleep(0.05)
                server.send_signal(signal.SIGTERM)
                done = [reply for reply in asked if not reply.exception()]
            assert server.wait(timeout=30) == 0
            print(f"SIGTERM: {len(done)} of {len(asked)} requests under way were answered, exit status 0")
        finally:
            server.kill()


main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
