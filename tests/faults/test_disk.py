"""Disks that are full: the store, the audit log, and downloads. Each on a small file system of its own."""

import hashlib
import http.server
import json
import pathlib
import re
import shlex
import subprocess
import threading

import pytest

from conftest import OSSIA, chat, environment, post

REPO, COMMIT = "owner/model", "0123456789abcdef0123456789abcdef01234567"


def on_small_disk(dir: pathlib.Path, size: str) -> tuple[str, ...]:
    """What runs a command with a file system of `size` at `dir`, which only this command sees."""
    mount = f'mount -t tmpfs -o size={size} none {shlex.quote(str(dir))} && exec "$@"'
    return ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")


@pytest.fixture
def disk(tmp_path):
    dir = tmp_path / "disk"
    dir.mkdir()
    if subprocess.run([*on_small_disk(dir, "1m"), "true"], capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    return dir


def respond(server, text: str, **fields):
    body = {"input": text, **fields}
    return server.send(post("/v1/responses", json.dumps(body).encode()))


def test_a_full_disk_refuses_what_it_cannot_keep_and_nothing_else(serve, disk):
    server = serve("--audit-log", str(disk / "audit.jsonl"), store=f"sqlite:{disk / 'store.sqlite'}", prefix=on_small_disk(disk, "6m"))
    seen = pathlib.Path(f"/proc/{server.process.pid}/root{disk}")  # the disk as the server sees it
    (seen / "filler").write_bytes(bytes(2 << 20))
    kept = [respond(server, f"hi {idx}").json()["id"] for idx in range(5)]
    refused = None
    for _ in range(200):
        answer = respond(server, "hi " + "x" * 50_000)
        if answer.status != 200:
            refused = answer
            break
        kept.append(answer.json()["id"])
    assert refused and refused.status == 503, refused
    assert refused.json()["error"]["code"] == "server_overloaded" and "retry-after" in refused.headers, refused
    assert re.search("the store failed.*full", server.log), server.log
    # What is streamed has begun by then; its last event says that it was not kept.
    streamed = respond(server, "hi " + "x" * 50_000, stream=True)
    events = [json.loads(line[6:]) for line in streamed.body.decode().splitlines() if line.startswith("data: {")]
    assert events[-1]["type"] in ("error", "response.failed"), events[-1]
    # Who keeps nothing does not notice, and what is there can be read.
    assert respond(server, "hi", store=False).status == 200
    assert server.send(chat("hi")).status == 200
    for id in kept:
        assert server.get(f"/v1/responses/{id}").json()["status"] == "completed"
    # The audit log shares the disk: that it cannot be written is said, and costs no request.
    fill(seen / "filler")
    assert server.send(chat("hi")).status == 200
    # Room again: everything goes on without a restart.
    (seen / "filler").unlink()
    answer = respond(server, "hi again")
    assert answer.status == 200, answer
    assert server.get(f"/v1/responses/{answer.json()['id']}").status == 200, answer
    server.wait_until_idle()
    assert server.stop() == 0


def fill(path: pathlib.Path):
    """Takes what is left of the disk."""
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_server_does_not_start_on_a_full_disk_and_says_why(tmp_path, disk):
    fill_and_serve = f"head -c 2m /dev/zero > {disk}/filler 2>/dev/null; exec {OSSIA} serve scripted: --config none --port 0 --store sqlite:{disk}/store.sqlite"
    command = [*on_small_disk(disk, "1m"), "sh", "-c", fill_and_serve]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and "panicked" not in done.stderr, done.stderr
    assert "store" in done.stderr and re.search("full|No space left", done.stderr), done.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one checkpoint."""

    protocol_version = "HTTP/1.1"
    files = {
        "config.json": b"{}",
        "tokenizer.json": b'{"t": 1}',
        "model.safetensors": bytes(range(256)) * 12_000,
    }

    def do_HEAD(self):
        data = self.files[self.path.removeprefix(f"/{REPO}/resolve/main/")]
        self.answer(200, b"", {**self.about(data), "content-length": str(len(data))})

    def do_GET(self):
        if self.path == f"/api/models/{REPO}/revision/main":
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer(200, json.dumps({"siblings": siblings, "sha": COMMIT}).encode())
        data = self.files[self.path.removeprefix(f"/{REPO}/resolve/main/")]
        first = int(re.fullmatch(r"bytes=(\d+)-", self.headers["range"]).group(1))
        self.answer(206, data[first:], {**self.about(data), "content-range": f"bytes {first}-{len(data) - 1}/{len(data)}"})

    def about(self, data: bytes) -> dict:
        return {"x-repo-commit": COMMIT, "etag": f'"{hashlib.sha256(data).hexdigest()}"'}

    def answer(self, status: int, body: bytes, headers=()):
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client's disk is full

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_download_that_does_not_fit_says_so_and_goes_on_when_there_is_room(tmp_path, disk, hub):
    """3 MB of weights on a disk of 2 MB, and then on one of 16."""
    script = f"""
        export HF_HOME={disk} HF_ENDPOINT={hub} HF_HUB_OFFLINE=0
        {OSSIA} pull {REPO}; echo "exit $?"
        du -s --block-size=1 {disk} | cut -f1
        mount -o remount,size=16m {disk}
        {OSSIA} pull {REPO}; echo "exit $?"
        sha256sum {disk}/hub/models--owner--model/snapshots/*/model.safetensors
    """
    env = {name: value for name, value in environment().items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [*on_small_disk(disk, "2m"), "sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=300, env=env
    )
    said = done.stdout + done.stderr
    assert "panicked" not in said, said
    assert done.stdout.split("exit ")[1].startswith("1"), said
    assert "model.safetensors" in done.stderr and "No space left" in done.stderr, said
    assert done.stdout.split("exit ")[2].startswith("0"), said
    assert hashlib.sha256(Hub.files["model.safetensors"]).hexdigest() in done.stdout, said
