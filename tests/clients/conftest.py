"""Starts the real server once per model and gives tests an official client for it."""

import os
import pathlib
import re
import subprocess

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OSSIA = os.environ.get("OSSIA_BIN", str(ROOT / "target/debug/ossia"))
READY = re.compile(r"http://127\.0\.0\.1:\d+/v1")


class Server:
    """A running `ossia serve`; `url` ends in /v1."""

    def __init__(self, log_path: pathlib.Path, *args: str):
        self.log_path = log_path
        log = log_path.open("w")
        command = [OSSIA, "serve", *args, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        self.url = self._wait_until_ready()
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

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def _serve(tmp_path_factory, name: str, *args: str):
    server = Server(tmp_path_factory.mktemp(name) / "server.log", *args)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The bundled demo model."""
    yield from _serve(tmp_path_factory, "demo")


@pytest.fixture(scope="session")
def scripted(tmp_path_factory):
    """The scripted runner without rules, behind the same routes."""
    yield from _serve(tmp_path_factory, "scripted", "scripted:")
