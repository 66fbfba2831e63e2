"""Nothing is contacted: what the traces of all servers of this suite are held to, and what being offline means."""

import os
import subprocess

import pytest

import syscalls
from conftest import OSSIA

needs_strace = pytest.mark.skipif(not syscalls.AVAILABLE, reason="strace is not installed: `cargo xtask setup` does it")
STREAM = "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK"


@pytest.mark.parametrize("line, harmless", [
    (f"7 socket(AF_INET, {STREAM}, IPPROTO_IP) = 9", True),
    (f"7 socket(AF_UNIX, {STREAM}, 0) = 9", True),
    ("7 socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = 9", False),
    ("7 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 9", False),
    ('7 bind(9, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("127.0.0.1")}, 16) = 0', True),
    ('7 bind(9, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("0.0.0.0")}, 16) = 0', False),
    ('7 connect(9, {sa_family=AF_UNIX, sun_path="/run/x"}, 16) = 0', True),
    ('7 connect(9, {sa_family=AF_INET6, sin6_port=htons(9), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0', True),
    ('7 connect(9, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16 <unfinished ...>', False),
    ("7 connect(9, 0x7ffd, 16) = -1 EFAULT (Bad address)", False),
    ("7 <... connect resumed>) = 0", True),
])
def test_a_trace_is_read_for_whom_it_reaches(line, harmless):
    assert (syscalls.faults(line) == []) == harmless


def run(tmp_path, *args: str, **env: str) -> tuple[int, str, str]:
    """Exit code, standard error and trace of a command that ends by itself."""
    log = tmp_path / "trace"
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OSSIA_"))}
    process = subprocess.Popen(
        syscalls.wrap([OSSIA, *args], log), env={**ours, "HF_HOME": str(tmp_path / "hub"), **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, error = process.communicate(timeout=60)
    return process.returncode, error, syscalls.read(log, process.pid)


@needs_strace
def test_a_trace_sees_an_attempt(tmp_path):
    code, error, text = run(tmp_path, "pull", "owner/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 1, error
    assert any(call == "connect" and "htons(9)" in rest for call, rest in syscalls.calls(text)), text


@needs_strace
@pytest.mark.parametrize("switch", ["OSSIA_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_tried_and_the_missing_file_is_named(tmp_path, switch):
    serve = ["serve", "openai/gpt-oss-20b", "--config", "none", "--store", "none", "--port", "0"]
    code, error, text = run(tmp_path, *serve, **{switch: "1"})
    assert code == 1 and "config.json is missing" in error and switch in error, error
    assert [call for call, _ in syscalls.calls(text) if call == "connect"] == []
    assert syscalls.faults(text) == []
