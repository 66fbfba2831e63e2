"""What a program did with sockets, from a trace of its system calls: whether it contacted anybody but this machine."""

import pathlib
import re
import shutil
import time

AVAILABLE = shutil.which("strace") is not None
CALL = re.compile(r"\b(socket|connect|bind)\((.*)")
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|sa_family=AF_UNIX')
# Name servers are asked over datagrams, so a datagram socket is a fault although it could be for something else.
HARMLESS = re.compile(r"AF_UNIX,|AF_INET6?, SOCK_STREAM")


def wrap(command: list[str], log: pathlib.Path) -> list[str]:
    """The command under a trace that leaves it its process id, where there is strace."""
    if not AVAILABLE:
        return command
    # Only these calls stop the program (seccomp), so it is hardly slower.
    options = ["-f", "-D", "--seccomp-bpf", "-e", "trace=socket,connect,bind", "-e", "signal=none", "-o", str(log)]
    return ["strace", *options, *command]


def read(log: pathlib.Path, pid: int) -> str:
    """The whole trace; strace ends a moment after the program."""
    ended = re.compile(rf"^{pid} +\+\+\+ ", re.MULTILINE)
    for _ in range(1000):
        text = log.read_text() if log.exists() else ""
        if ended.search(text):
            return text
        time.sleep(0.01)
    raise RuntimeError(f"the trace {log} has no end:\n{text}")


def calls(text: str) -> list[tuple[str, str]]:
    """(call, arguments) in order; the second halves of interrupted calls have no arguments."""
    return [found.groups() for line in text.splitlines() if (found := CALL.search(line)) and "resumed>" not in line]


def faults(text: str) -> list[str]:
    """Calls that reach, or could reach, another machine."""
    harmless = {"socket": HARMLESS, "connect": LOOPBACK, "bind": LOOPBACK}
    return [f"{call}({rest}" for call, rest in calls(text) if not harmless[call].search(rest)]
