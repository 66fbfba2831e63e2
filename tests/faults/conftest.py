"""A server in a process of its own, looked at from outside: sockets, /metrics, and what the system says of the process."""

import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OSSIA = os.environ.get("OSSIA_BIN", str(ROOT / "target/debug/ossia"))
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


def ticks(count):
    """Words of which none comes twice: what repeats itself is guessed, several tokens at a time, and takes as long as it likes."""
    return "".join(f"{tick * 7919 % 100_003} " for tick in range(count))


# Rules of the scripted model; `flood` outlasts every buffer between it and a client.
RULES = [
    {"pattern": "ticks", "text": ticks(200), "delay_ms": 10},
    {"pattern": "steady", "text": ticks(2000), "delay_ms": 50},
    {"pattern": "stuck", "text": "one two three", "delay_ms": 1000},
    {"pattern": "flood", "text": "flood " * 60_000},
    {"pattern": "hi", "text": "hello there"},
]


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="also what takes minutes")


def pytest_configure(config):
    config.addinivalue_line("markers", "thorough: takes minutes; runs with --thorough only")
    # Many clients are many descriptors, and shells allow few.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--thorough"):
        skip = pytest.mark.skip(reason="runs with --thorough")
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(skip)


def environment(more: dict | None = None) -> dict:
    """The variables of a process that is started: those of this one without its settings, and some more."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OSSIA_", "OTEL_"))}
    return {**kept, **(more or {})}


class Answer:
    """An answer as it came: `status` is 0 where none came."""

    def __init__(self, data: bytes):
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.data = data

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.data[:400]!r}"


def chat(text: str, stream: bool = False, version: str = "1.0", headers: str = "", **fields) -> bytes:
    """A chat request, whole; `headers` are lines with their ends."""
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": stream, **fields})
    return post("/v1/chat/completions", body.encode(), version, headers)


def post(path: str, body: bytes, version: str = "1.0", headers: str = "") -> bytes:
    head = f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def until(what: str, condition, seconds: float = 60):
    """Waits for `condition`, gives what it gave; that it never comes true is the failure, not how long it took."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)
    return found


class Server:
    """A running `ossia serve` on any port, with all that it logs."""

    def __init__(self, dir: pathlib.Path, *args: str, model: str | None = None, store: str = "memory", prefix=(), env=None, program: str = OSSIA):
        self.dir, self.log_path = dir, dir / "server.log"
        if model is None:
            (dir / "rules.json").write_text(json.dumps(RULES))
            model = f"scripted:{dir / 'rules.json'}"
        command = [*prefix, program, "serve", model, "--config", "none", "--store", store, "--port", "0", *args]
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=dir, env=environment(env)
            )
        self.port = int(self.wait_for_log(LISTENING).group(1))
        self.wait_for_log(re.compile("ready: "))

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, pattern: re.Pattern) -> re.Match:
        def look():
            found = pattern.search(self.log)
            assert found or self.process.poll() is None, f"the server ended:\n{self.log}"
            return found

        return until(f"'{pattern.pattern}' in\n{self.log}", look)

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def send(self, request: bytes) -> Answer:
        """Sends and takes all that comes until the server hangs up, or until nothing comes for a while."""
        with self.connect() as stream:
            return exchange(stream, request)

    def get(self, path: str, headers: str = "") -> Answer:
        return self.send(f"GET {path} HTTP/1.0\r\n{headers}\r\n".encode())

    def loads(self) -> dict:
        return self.get("/v1/loads").json()

    def metric(self, name: str, *labels: str) -> float:
        """The sum of all series of this name that have these labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        found = [line for line in lines if re.match(rf"{re.escape(name)}[ {{]", line) and all(l in line for l in labels)]
        assert found, f"no metric {name} {labels}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def is_idle(self) -> bool:
        """Whether nothing runs or waits and no block is held."""
        loads = self.loads()
        assert loads["num_blocks_free"] + loads["num_blocks_used"] + loads["num_blocks_cached"] == loads["num_blocks_total"]
        return loads["num_running"] == loads["num_waiting"] == loads["num_blocks_used"] == 0

    def wait_until_idle(self):
        until(f"idle: {self.loads()}", self.is_idle)

    def num_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss_bytes(self) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Asks it to end and gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def exchange(stream: socket.socket, request: bytes) -> Answer:
    try:
        stream.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it may answer, and hang up, before all is sent
    return Answer(read_all(stream))


def read_all(stream: socket.socket) -> bytes:
    data = b""
    try:
        while part := stream.recv(1 << 16):
            data += part
    except (ConnectionResetError, TimeoutError):
        pass
    return data


@pytest.fixture
def serve(tmp_path_factory):
    """Starts servers; none stays behind when a test ends, and none of them has panicked."""
    servers = []

    def start(*args: str, **options) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("server"), *args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
    for server in servers:
        assert "panicked" not in server.log, server.log
