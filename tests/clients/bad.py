"""Good and bad clients at once on `lowrank serve`: half-open, slow, vanishing, greedy ones, wrong JSON, wrong keys, path tricks. Every
refusal has OpenAI's form, good clients get what they got alone, memory stays flat, SIGTERM ends it.

Usage: bad.py LOWRANK BASE ADAPTER SECONDS. Needs Python alone."""

import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

GOOD = ["boats", "a duck", "once upon a time", "rain on"]
BAD_BODIES = [
    b"", b"{", b"[]", b"nothing", b'{"prompt": ' + b"[" * 5000, b'{"prompt": "\xff\xfe"}', b'{"prompt": 5}', b'{"prompt": "a", "n": 0}',
    b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": "a", "temperature": "hot"}', b'{"prompt": "a", "model": "../../etc/passwd"}',
    b'{"prompt": "a", "model": ""}', b'{"prompt": "' + b"a" * 900_000 + b'"}', b'{"prompt": [4294967295]}', b'{"prompt": "a", "what": true}',
]
PATHS = ["/", "/v1", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/../../etc/passwd", "/v1/completions/x", "/%ff", "//"]
LOADS = ["../keys", "/etc/passwd", "adapter.lrk/..", ".", "", "adapter.lrk\0", "x" * 5000, "~", "%2e%2e/keys"]


class Load:
    def __init__(self, port, process):
        self.port, self.process = port, process
        self.end, self.failed, self.counts = threading.Event(), [], {}

    def run(self, work):
        def loop():
            pick = random.Random(work.__name__)
            try:
                while not self.end.is_set():
                    work(pick)
                    self.counts[work.__name__] = self.counts.get(work.__name__, 0) + 1
            except Exception as error:
                self.failed.append(f"{work.__name__}: {error!r}")
                self.end.set()

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    def ask(self, method, path, body=b"", key="sk-ask"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {"content-type": "application/json", "authorization": f"Bearer {key}"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def socket(self, sent=b""):
        stream = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        stream.sendall(sent)
        return stream

    def refused(self, status, body, path):
        assert 400 <= status < 500, (path, status, body[:200])
        error = json.loads(body)["error"]
        assert error["message"] and len(error["message"]) < 2000 and error["type"], body

    def complete(self, prompt, model):
        body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0}
        while True:
            status, said = self.ask("POST", "/v1/completions", json.dumps(body))
            if status != 429:
                break
            time.sleep(0.05)
        assert status == 200, said
        return json.loads(said)["choices"][0]["text"]

    # What clients do, each again and again.

    def good(self, pick):
        prompt, model = pick.choice(GOOD), pick.choice(["base", "adapter"])
        assert self.complete(prompt, model) == self.expected[prompt, model]

    def wrong_json(self, pick):
        self.refused(*self.ask("POST", "/v1/completions", pick.choice(BAD_BODIES)), "wrong JSON")

    def wrong_keys(self, pick):
        status, body = self.ask("POST", "/v1/completions", b"{}", pick.choice(["", "sk-wrong", "sk-" + "x" * 4000]))
        assert status == 401, body
        self.refused(status, body, "key")

    def wrong_paths(self, pick):
        path = pick.choice(PATHS)
        status, body = self.ask("GET", path)
        if (status, path) != (200, "/"):
            self.refused(status, body, path)
        body = {"lora_name": "x", "lora_path": pick.choice(LOADS)}
        self.refused(*self.ask("POST", "/v1/load_lora_adapter", json.dumps(body), "sk-admin"), body)

    def huge(self, pick):
        status, body = self.ask("POST", "/v1/completions", b"")
        with self.socket(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-ask\r\ncontent-length: 999999999999\r\n\r\n") as stream:
            assert b" 413 " in stream.recv(100)

    def half_open(self, pick):
        with self.socket(pick.choice([b"", b"GET", b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n", b"\0" * 50])):
            time.sleep(pick.random())

    def slow(self, pick):
        with self.socket(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-ask\r\ncontent-length: 500\r\n\r\n") as stream:
            for _ in range(pick.randrange(20)):
                stream.sendall(b" ")
                time.sleep(0.05)

    def vanishing(self, pick):
        body = json.dumps({"model": "adapter", "prompt": "a", "max_tokens": 400, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-ask\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with self.socket(head + body) as stream:
            if pick.random() < 0.5:
                stream.recv(200)

    def swapping(self, pick):
        body = {"lora_name": "swapped", "lora_path": "adapter.lrk", "load_inplace": True}
        status, said = self.ask("POST", "/v1/load_lora_adapter", json.dumps(body), "sk-admin")
        assert status == 200, said
        time.sleep(0.02)

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) / 1000


def main(lowrank, base, adapter, seconds):
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        (place / "adapters").mkdir()
        shutil.copy(adapter, place / "adapters/adapter.lrk")
        (place / "keys").write_text("sk-ask\n")
        (place / "admin").write_text("sk-admin\n")
        words = [lowrank, "serve", "--base", base, "--name", "base", "--adapters", place / "adapters", "--port", "0", "--precision", "exact"]
        words += ["--context", "512", "--api-key-file", place / "keys", "--admin-key-file", place / "admin"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            load = Load(int(process.stdout.readline().split("/v1")[0].rsplit(":", 1)[1]), process)
            load.expected = {(prompt, model): load.complete(prompt, model) for prompt in GOOD for model in ("base", "adapter")}
            kinds = [load.good, load.good, load.wrong_json, load.wrong_keys, load.wrong_paths, load.huge, load.half_open, load.slow]
            kinds += [load.vanishing, load.vanishing, load.swapping]
            threads = [load.run(kind) for kind in kinds]
            began, sizes = time.monotonic(), []
            while time.monotonic() < began + seconds and not load.end.is_set():
                time.sleep(0.5)
                sizes.append(load.memory())
            load.end.set()
            for thread in threads:
                thread.join()
            assert not load.failed, load.failed
            assert process.poll() is None, "the server ended"
            early, late = max(sizes[: len(sizes) // 3]), max(sizes[2 * len(sizes) // 3 :])
            # What threads keep comes to an end; what a request left behind would not, after thousands of them.
            assert late < early + 48, f"memory grows: {early} MB, then {late} MB"
            half = [load.socket(), load.socket(b"POST / HTTP/1.1\r\n")]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=90) == 0
            del half
            counts = ", ".join(f"{name} {count}" for name, count in sorted(load.counts.items()))
            print(f"bad clients beside good ones for {seconds} s: memory {early:.0f} MB, later {late:.0f} MB; {counts}")
        finally:
            process.kill()


main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
