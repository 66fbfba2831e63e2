"""Codex CLI as its users run it: a custom provider with wire_api "responses", one command, one file."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

CODEX = pathlib.Path(__file__).with_name("node") / "node_modules/.bin/codex"
CALL = json.dumps({"cmd": "printf hello > greeting.txt"})
RULES = [
    {
        "pattern": "greeting",
        "after_tools": False,
        "text": "<|channel|>analysis<|message|>A command writes the file.<|end|><|start|>assistant<|channel|>commentary"
        f" to=functions.exec_command <|constrain|>json<|message|>{CALL}<|call|>",
    },
    {"pattern": "greeting", "after_tools": True, "text": "I have written the greeting."},
]
CONFIG = """
model = "gpt-oss"
model_provider = "ossia"

[model_providers.ossia]
name = "ossia"
base_url = "{url}"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


@pytest.fixture
def codex_server(serve, tmp_path):
    """The scripted runner with a rule for each half of the task."""
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(RULES))
    return serve("codex", f"scripted:{rules}", "--served-model-name", "gpt-oss")


def test_codex_runs_a_command_that_writes_a_file(codex_server, tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(url=codex_server.url))
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(home), "CODEX_HOME": str(home)}
    # Its own sandbox needs more than a container allows; the directory is a temporary one.
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    outcome = subprocess.run(
        [CODEX, "exec", *flags, "Write a greeting into greeting.txt."],
        cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert (work / "greeting.txt").read_text() == "hello", outcome.stderr
    assert "I have written the greeting." in outcome.stdout
