"""Starts the real server once per model and gives tests an official client for it, with OpenAI's document in between."""

import collections
import os
import pathlib
import re
import subprocess

import openai
import pytest

import syscalls
from proxy import Proxy

ROOT = pathlib.Path(__file__).resolve().parents[2]
OSSIA = os.environ.get("OSSIA_BIN", str(ROOT / "target/debug/ossia"))
PROXIES: list[Proxy] = []
FUZZ_STATUSES = collections.Counter()
TRACED_CALLS = collections.Counter()
READY = re.compile(r"http://127\.0\.0\.1:\d+/v1")


def pytest_addoption(parser):
    parser.addoption("--fuzz-requests", type=int, default=200, help="requests of the fuzzing tests, all together")


class Server:
    """A running `ossia serve`; `url` and `direct_url` end in /v1, the first leads through the judging proxy."""

    def __init__(self, log_path: pathlib.Path, *args: str):
        self.log_path = log_path
        log = log_path.open("w")
        command = [OSSIA, "serve", *args, "--port", "0", "--store", "memory"]
        self.trace_path = log_path.with_name("trace")
        self.process = subprocess.Popen(syscalls.wrap(command, self.trace_path), stdout=log, stderr=log, cwd=ROOT)
        self.direct_url = self._wait_until_ready()
        self.proxy = Proxy(self.direct_url)
        PROXIES.append(self.proxy)
        self.url = self.proxy.url
        self.client = openai.OpenAI(base_url=self.url, api_key="not-needed", max_retries=0, timeout=120)

    def _wait_until_ready(self) -> str:
        while self.process.poll() is None:
            found = READY.search(self.log_path.read_text())
            if found:
                return found.group(0)
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
        raise RuntimeError(f"the server ended before it was ready:\n{self.log_path.read_text()}")

    def stop(self) -> list[str]:
        """Ends it; gives the system calls with which it reached beyond this machine."""
        self.proxy.stop()
        self.process.terminate()
        self.process.wait(30)
        if not syscalls.AVAILABLE:
            return []
        text = syscalls.read(self.trace_path, self.process.pid)
        TRACED_CALLS.update(call for call, _ in syscalls.calls(text))
        return syscalls.faults(text)


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """Starts a server with these arguments; all are stopped at the end, and none may have contacted anybody."""
    servers = []

    def start(name: str, *args: str) -> Server:
        servers.append(Server(tmp_path_factory.mktemp(name) / "server.log", *args))
        return servers[-1]

    yield start
    faults = [fault for server in servers for fault in server.stop()]
    assert not faults, "a server reached beyond this machine:\n" + "\n".join(faults)


@pytest.fixture(scope="session")
def demo(serve):
    """The bundled demo model."""
    return serve("demo")


@pytest.fixture(scope="session")
def scripted(serve):
    """The scripted runner without rules, behind the same routes."""
    return serve("scripted", "scripted:")


@pytest.fixture(scope="session")
def slow(serve):
    """The scripted runner with a pause before each token."""
    return serve("slow", "scripted:", "--scripted-delay-ms", "20")


@pytest.fixture(scope="session")
def fuzzed(serve):
    """The scripted runner under whatever name a random request has for the model."""
    return serve("fuzzed", "scripted:", "--accept-any-model", "--max-model-len", "4096")


@pytest.fixture
def fuzz_statuses():
    """How often each status answered a random request."""
    return FUZZ_STATUSES


@pytest.fixture(autouse=True)
def contract_holds():
    """Fails a test in which any answer broke OpenAI's document."""
    yield
    faults = [fault for proxy in PROXIES for fault in proxy.take_faults()]
    assert not faults, "\n".join(faults)


def pytest_terminal_summary(terminalreporter):
    bodies, events = (sum(getattr(proxy, name) for proxy in PROXIES) for name in ("num_bodies", "num_events"))
    terminalreporter.write_line(f"held against OpenAI's document: {bodies} bodies, {events} stream events")
    traced = dict(sorted(TRACED_CALLS.items())) if syscalls.AVAILABLE else "not traced: strace is not installed"
    terminalreporter.write_line(f"sockets of the servers, loopback and Unix only: {traced}")
    if FUZZ_STATUSES:
        counts = dict(sorted(FUZZ_STATUSES.items()))
        terminalreporter.write_line(f"fuzzed with {sum(FUZZ_STATUSES.values())} requests, answers by status: {counts}")
