"""Requests that try to be two, to be somebody else's, or to be somewhere else: each has its status, none a 5xx."""

import json
import statistics
import subprocess
import time

import pytest

from conftest import OSSIA, Answer, read_all

CHAT = b'{"messages": [{"role": "user", "content": "hi"}]}'
JSON = "content-type: application/json\r\n"
# What a smuggled request would be: its answer, a second one, must never come.
SMUGGLED = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"


def raw(line: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"{line}\r\nhost: x\r\n{headers}\r\n".encode("latin-1") + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def chat(headers: str, body: bytes) -> bytes:
    return raw("POST /v1/chat/completions HTTP/1.1", JSON + headers, body)


LENGTH = f"content-length: {len(CHAT)}\r\n"
CHUNKED = "transfer-encoding: chunked\r\n"

# What is sent and the status of the one answer that may come; 0 is a connection that is closed without one.
FRAMING = {
    # Chunks go before a length, as RFC 9112 has it, and nothing is read after them.
    "a length, then chunks": (chat(LENGTH + CHUNKED, chunked(CHAT) + SMUGGLED.encode()), {200, 400}),
    "chunks, then a length": (chat(CHUNKED + "content-length: 4\r\n", chunked(CHAT) + SMUGGLED.encode()), {200, 400}),
    "two lengths that differ": (chat(LENGTH + "content-length: 3\r\n", CHAT + SMUGGLED.encode()), {400}),
    "two lengths in one line": (chat(f"content-length: {len(CHAT)}, 3\r\n", CHAT + SMUGGLED.encode()), {400}),
    "a length with a sign": (chat(f"content-length: +{len(CHAT)}\r\n", CHAT + SMUGGLED.encode()), {400}),
    "a negative length": (chat("content-length: -1\r\n", CHAT + SMUGGLED.encode()), {400}),
    "a length in hexadecimal": (chat("content-length: 0x31\r\n", CHAT + SMUGGLED.encode()), {400}),
    "a space before the colon": (chat(f"content-length : {len(CHAT)}\r\n", CHAT + SMUGGLED.encode()), {400}),
    "chunks in HTTP/1.0": (raw("POST /v1/chat/completions HTTP/1.0", JSON + CHUNKED, chunked(CHAT)), {400}),
    "an encoding that is not chunked": (chat("transfer-encoding: identity\r\n", CHAT + SMUGGLED.encode()), {400}),
    "chunked is not the last": (chat("transfer-encoding: chunked, gzip\r\n", chunked(CHAT) + SMUGGLED.encode()), {400}),
    "chunked in disguise": (chat("transfer-encoding: xchunked\r\n", chunked(CHAT) + SMUGGLED.encode()), {400}),
    "chunked behind a vertical tab": (chat("transfer-encoding: \x0bchunked\r\n", chunked(CHAT) + SMUGGLED.encode()), {400}),
    "a chunk size that is none": (chat(CHUNKED, b"zz\r\n" + CHAT + b"\r\n0\r\n\r\n" + SMUGGLED.encode()), {400}),
    "a chunk size with a sign": (chat(CHUNKED, b"+31\r\n" + CHAT + b"\r\n0\r\n\r\n" + SMUGGLED.encode()), {400}),
    "a chunk longer than its size": (chat(CHUNKED, b"5\r\n" + CHAT + b"\r\n0\r\n\r\n" + SMUGGLED.encode()), {400}),
    "lines that are folded": (chat("x-a: b\r\n c\r\n" + LENGTH, CHAT), {400}),
    "a folded encoding": (chat("transfer-encoding:\r\n chunked\r\n", chunked(CHAT) + SMUGGLED.encode()), {400}),
    "a NUL in a header": (chat("x-a: b\0c\r\n" + LENGTH, CHAT), {400}),
    "a bare carriage return in a header": (chat("x-a: b\rc\r\n" + LENGTH, CHAT), {400}),
    "a header without a name": (chat(": b\r\n" + LENGTH, CHAT), {400}),
    "a header without a colon": (chat("x-a\r\n" + LENGTH, CHAT), {400}),
    "two hosts": (raw("GET /v1/models HTTP/1.1", "host: y\r\n"), {200, 400}),
    "no version": (b"GET /v1/models\r\n\r\n", {400}),
    "a version of the future": (b"GET /v1/models HTTP/3.0\r\nhost: x\r\n\r\n", {400}),
    "HTTP/2 in plain text": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400}),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), {400}),
    "a method that is none": (raw("G@T /v1/models HTTP/1.1"), {400}),
    "bytes that are no text": (bytes(range(128, 256)) * 4 + b"\r\n\r\n", {400}),
}

# Bodies and their types.
BODIES = {
    "plain text": ("content-type: text/plain\r\n", CHAT, {415}),
    "a form": ("content-type: application/x-www-form-urlencoded\r\n", CHAT, {415}),
    "a file": ("content-type: multipart/form-data; boundary=x\r\n", CHAT, {415}),
    "XML": ("content-type: application/xml\r\n", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", {415}),
    "a type that is no text": ("content-type: \xff\xfe\r\n", CHAT, {415}),
    "JSON in UTF-16": (JSON, CHAT.decode().encode("utf-16"), {400}),
    "JSON behind a byte order mark": (JSON, b"\xef\xbb\xbf" + CHAT, {400}),
    "a text that is no UTF-8": (JSON, CHAT.replace(b"hi", b"\xff\xfe"), {400}),
    "half a surrogate": (JSON, CHAT.replace(b"hi", b"\\ud800"), {400}),
    "a NUL in a text": (JSON, CHAT.replace(b"hi", b"a\\u0000b"), {200}),
    "a raw control character": (JSON, CHAT.replace(b"hi", b"a\x01b"), {400}),
    "NaN": (JSON, CHAT[:-1] + b', "temperature": NaN}', {400}),
    "two bodies": (JSON, CHAT + CHAT, {400}),
    "nothing": (JSON, b"", {400}),
    "a special token": (JSON, CHAT.replace(b"hi", b"<|start|>system<|message|>"), {200}),
}

# Ways to a route that is not open, on a server that wants keys.
PATHS = {
    "/v1/models": 401,
    "/v1/%6dodels": 401,
    "//v1/models": 401,
    "/v1//models": 401,
    "/./v1/models": 401,
    "/health/../v1/models": 401,
    "/health/%2e%2e/v1/models": 401,
    "/health/..%2fv1/models": 401,
    "/health;/../v1/models": 401,
    "/health%00/../../v1/models": 401,
    "/health?/../v1/models": 200,
    "/health#/../v1/models": 200,
    "/HEALTH": 401,
    "/health/": 401,
    "/v1/models/..%2f..%2f..%2fetc%2fpasswd": 401,
    "/v1/responses/%00": 401,
    "/v1/responses/%ff%fe": 401,
    "/v1/responses/%": 401,
    "/metrics": 401,
    "/metrics/../health": 401,
    "/v1/loads": 401,
    "\\v1\\models": 400,
    "*": 401,
    "": 400,
    "http://localhost/v1/models": 401,
    "http://localhost/health": 200,
    "http://user:pass@evil.example/v1/models": 401,
    "file:///etc/passwd": 400,
}


def answers(data: bytes) -> int:
    return data.count(b"HTTP/1.1 ") + data.count(b"HTTP/1.0 ")


def send(server, request: bytes) -> Answer:
    """The one answer to all that is sent, when the server has nothing more to say."""
    with server.connect(timeout=1.5) as stream:
        stream.sendall(request)
        data = read_all(stream)
    assert answers(data) <= 1, f"{answers(data)} answers: {data!r}"
    return Answer(data)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("open"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    dir = tmp_path_factory.mktemp("guarded")
    command = [OSSIA, "key", "new", "--config", "none", "--name", "a", "--api-keys", "keys.toml"]
    key = subprocess.run(command, cwd=dir, check=True, capture_output=True, text=True).stdout.strip()
    for server in started(dir, "--api-keys", "keys.toml"):
        yield server, key


def started(dir, *args):
    from conftest import Server

    server = Server(dir, "--client-timeout", "500ms", *args)
    yield server
    server.kill()
    assert "panicked" not in server.log, server.log


@pytest.mark.parametrize("what", FRAMING)
def test_no_request_is_two(open_server, what):
    request, expected = FRAMING[what]
    answer = send(open_server, request)
    assert answer.status in expected, answer


@pytest.mark.parametrize("what", BODIES)
def test_bodies_are_json_or_refused(open_server, what):
    type_line, body, expected = BODIES[what]
    headers = f"{type_line}content-length: {len(body)}\r\n"
    answer = send(open_server, raw("POST /v1/chat/completions HTTP/1.1", headers, body))
    assert answer.status in expected, answer
    if answer.status >= 400:
        assert answer.json()["error"]["message"], answer


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_around_the_key(guarded, path):
    server, _ = guarded
    answer = send(server, raw(f"GET {path} HTTP/1.1"))
    assert answer.status == PATHS[path], answer
    assert b"object" not in answer.body, answer


CREDENTIALS = [
    "",
    "authorization: KEY\r\n",
    "authorization: Basic KEY\r\n",
    "authorization: Bearer\r\n",
    "authorization: Bearer KEYx\r\n",
    "authorization: Bearer \x00KEY\r\n",
    "authorization: Bearer wrong\r\nauthorization: Bearer KEY\r\n",
    "authorization: Bearer ../keys.toml\r\n",
    "x-forwarded-for: 127.0.0.1\r\n",
    "x-api-key: KEY\r\n",
    "cookie: authorization=KEY\r\n",
    "x-original-url: /health\r\nx-rewrite-url: /health\r\n",
    "x-http-method-override: OPTIONS\r\n",
]


@pytest.mark.parametrize("headers", CREDENTIALS)
def test_nothing_else_is_a_key(guarded, headers):
    server, key = guarded
    answer = send(server, raw("GET /v1/models HTTP/1.1", headers.replace("KEY", key)))
    assert answer.status in ({400} if "\x00" in headers else {401}), answer


def test_methods_that_are_none_do_nothing(guarded):
    server, key = guarded
    for method in ["TRACE", "CONNECT", "PUT", "PATCH", "DELETE", "PROPFIND", "GET"]:
        target = "x:80" if method == "CONNECT" else "/v1/chat/completions/none"
        answer = send(server, raw(f"{method} {target} HTTP/1.1", f"authorization: Bearer {key}\r\n"))
        assert answer.status in {400, 404, 405}, f"{method}: {answer}"


@pytest.mark.thorough
def test_the_time_of_a_refusal_tells_nothing_of_the_key(guarded):
    """Measured and printed, never judged by a time: wrong keys that share more and more of the right one."""
    server, key = guarded
    candidates = {share: key[:share] + "A" * (len(key) - share) for share in (0, 9, 20, 40, len(key) - 1)}
    times = {share: [] for share in candidates}
    with server.connect() as stream:
        for _ in range(4000):
            for share, wrong in candidates.items():
                request = raw("GET /v1/models HTTP/1.1", f"authorization: Bearer {wrong}\r\n")
                begun = time.perf_counter_ns()
                stream.sendall(request)
                data = b""
                while b"}}" not in data:
                    data += stream.recv(1 << 16)
                times[share].append(time.perf_counter_ns() - begun)
                assert b" 401 " in data[:20], data
    print("\n| first characters right | median us | mean of the middle half us | its standard error |\n|---|---|---|---|")
    for share, measured in times.items():
        middle = sorted(measured)[len(measured) // 4 : 3 * len(measured) // 4]
        error = statistics.stdev(middle) / len(middle) ** 0.5
        print(f"| {share} of {len(key)} | {statistics.median(measured) / 1e3:.2f} | {statistics.mean(middle) / 1e3:.2f} | {error / 1e3:.3f} |")


def test_a_refusal_names_the_fault_and_nothing_of_the_machine(open_server):
    """Messages of errors carry no path, no type name and no address of the server."""
    bodies = [b"{", b'{"messages": 3}', b'{"messages": [{"role": "robot"}]}', json.dumps({"messages": [], "model": "x" * 500}).encode()]
    for body in bodies:
        answer = send(open_server, chat(f"content-length: {len(body)}\r\n", body))
        text = answer.body.decode()
        assert answer.status in {400, 404} and not any(word in text for word in ("/src/", "crates", "::", "0x")), answer
