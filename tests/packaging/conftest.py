"""What the program knows: its settings, its metrics. What is shipped beside it is held to these."""

import os
import pathlib
import re
import subprocess
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OSSIA = os.environ.get("OSSIA_BIN", str(ROOT / "target/debug/ossia"))
# Read beside the settings.
OTHER_VARIABLES = {"OSSIA_CONFIG", "OSSIA_ENCRYPTION_KEY", "OSSIA_OFFLINE"}


def pytest_addoption(parser):
    parser.addoption("--clean-root", help="a root file system made by debootstrap, for test_root.py")


def ossia(*args: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OSSIA_")}
    return subprocess.run([OSSIA, *args], check=True, capture_output=True, text=True, env=env).stdout


@pytest.fixture(scope="session")
def variables() -> set[str]:
    """All variables that the program reads."""
    settings = re.findall(r"^(?:# )?([a-z_]+) (?:=|is not set)", ossia("config", "--config", "none"), re.MULTILINE)
    assert len(settings) > 40, settings
    return {f"OSSIA_{name.upper()}" for name in settings} | OTHER_VARIABLES


@pytest.fixture(scope="session")
def flags() -> dict[str, set[str]]:
    """The flags of each command."""
    commands = re.findall(r"^  ([a-z]+)  ", ossia("--help"), re.MULTILINE)
    assert {"serve", "health", "pull", "verify"} <= set(commands), commands
    found = {name: ossia(name, "--help") for name in commands if name != "help"}
    found |= {f"key {name}": ossia("key", name, "--help") for name in ("new", "list", "revoke")}
    found["bench serve"] = ossia("bench", "serve", "--help")
    return {name: set(re.findall(r"--[a-z][a-z0-9-]*", text)) for name, text in found.items()}


class Server:
    """A server of the scripted runner."""

    def __init__(self, dir: pathlib.Path):
        self.log = dir / "server.log"
        command = [OSSIA, "serve", "scripted:", "--config", "none", "--store", "memory", "--port", "0"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not (ready := re.search(r"ready: (http://\S+)/v1", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                pass
        self.url = ready.group(1)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture(scope="session")
def metrics(server) -> set[str]:
    """Names of all time series."""
    body = '{"messages": [{"role": "user", "content": "hi"}]}'
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", body.encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=30).read()
    lines = server.get("/metrics").splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def metric_names(query: str) -> list[str]:
    """Our metrics in a query of Prometheus."""
    return re.findall(r"\b(?:vllm:|ossia_)[a-zA-Z0-9_]+", query)
