"""Runs the tests of the JavaScript clients, which lie in node/."""

import os
import pathlib
import subprocess
import sys

import pytest

NODE_TESTS = pathlib.Path(__file__).with_name("node")


@pytest.mark.parametrize("name", ["openai", "state", "agents"])
def test_javascript(demo, scripted, name):
    node = pathlib.Path(sys.executable).with_name("node")
    env = {**os.environ, "DEMO_URL": demo.url, "SCRIPTED_URL": scripted.url}
    command = [str(node), "--test", "--test-reporter=spec", f"{name}.test.mjs"]
    outcome = subprocess.run(command, cwd=NODE_TESTS, env=env, capture_output=True, text=True, timeout=600)
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
