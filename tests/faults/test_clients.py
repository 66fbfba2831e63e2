"""Clients that come in storms, go without a word, or say nothing at all."""

import random
import socket
import struct
import time

from conftest import Answer, chat, exchange, post, read_all, until

STORM = 500


def reset(stream: socket.socket):
    """Hangs up by a reset, as a process that is killed or a machine that restarts does."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def storm(server, seed: int):
    """Many clients that connect, ask for a long stream, read a little or nothing, and go; some by a reset."""
    rng = random.Random(seed)
    for _ in range(STORM):
        stream = server.connect()
        request = chat("What is 2 + 2?", stream=True, max_tokens=500, ignore_eos=True)
        length = rng.choice([0, 20, len(request) - 1, len(request), len(request), len(request)])
        stream.sendall(request[:length])
        if length == len(request) and rng.random() < 0.5:
            stream.recv(rng.choice([1, 64, 4096]))
        reset(stream) if rng.random() < 0.5 else stream.close()


def test_a_storm_of_clients_that_go_leaves_nothing_behind(serve):
    limits = ["--max-num-seqs", "16", "--max-queue-len", "1000", "--kv-cache-memory", "8MiB"]
    server = serve(*limits, "--client-timeout", "2s", model="demo")
    for seed in range(3):  # buffers, threads and arenas are made once
        storm(server, seed)
        server.wait_until_idle()
    connections = server.num_descriptors
    before = until("descriptors are given back", lambda: connections() < 60 and connections())
    rss = server.rss_bytes()
    for seed in range(3, 6):
        storm(server, seed)
        server.wait_until_idle()
    until("descriptors are given back", lambda: connections() <= before + 2)
    assert server.metric("ossia_kv_cache_blocks", 'state="used"') == 0
    assert server.metric("ossia_engine_aborted_total") > STORM / 4
    assert server.metric("ossia_engine_failed_total") == 0
    # Half a page left behind by each of 1,500 connections would be more.
    grown = server.rss_bytes() - rss
    print(f"resident set: {rss >> 20} MiB after three storms, {grown / 1024:+.0f} KiB after three more")
    assert grown < 3 << 20, f"{grown} bytes"
    assert server.send(chat("hi")).status == 200


def test_half_open_connections_are_dropped_and_keep_nobody_out(serve):
    server = serve("--client-timeout", "3s", "--max-connections", "400")
    request = chat("hi")
    halves = []
    for idx in range(300):
        stream = server.connect()
        stream.sendall(request[: idx * len(request) // 300])
        halves.append(stream)
    assert server.send(chat("hi")).status == 200, "while they wait, others are served"
    for stream in halves:
        answer = Answer(read_all(stream))
        assert answer.status in (0, 408), answer
        stream.close()
    until("all places are free", lambda: server.num_descriptors() < 60)


def test_places_for_connections_run_out_and_come_back(serve):
    server = serve("--client-timeout", "2s", "--max-connections", "20")
    silent = [server.connect() for _ in range(20)]
    # There is no place; the system's queue takes the client in, and it is served when one of the silent is dropped.
    assert server.send(chat("hi")).status == 200
    for stream in silent:
        stream.close()


def test_slow_readers_hold_nobody_up(serve):
    """Five that stop reading; the others' answers come, and the five are dropped."""
    server = serve("--client-timeout", "2s")
    slow = []
    for _ in range(5):
        stream = socket.socket()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.connect(("127.0.0.1", server.port))
        # The alternatives of each token make events long, so that the buffers on the way are full soon.
        stream.sendall(chat("flood", stream=True, logprobs=True, top_logprobs=20))
        slow.append(stream)
    until("all five run", lambda: server.loads()["num_running"] == 5)
    for _ in range(5):
        assert server.send(chat("hi")).status == 200
    until("the five are dropped", server.is_idle, seconds=200)
    assert server.metric("ossia_engine_aborted_total") == 5
    for stream in slow:
        stream.close()


def test_one_that_reads_slowly_but_reads_gets_everything(serve):
    server = serve("--client-timeout", "3s")
    with server.connect() as stream:
        stream.sendall(chat("ticks", stream=True))
        data = b""
        while part := stream.recv(997):
            data += part
            time.sleep(0.01)
    assert data.rstrip().endswith(b"data: [DONE]"), data[-200:]


def test_heads_and_bodies_that_are_bombs(serve):
    server = serve("--max-body-size", "64KiB", "--client-timeout", "3s")
    deep = b'{"messages": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    objects = b'{"messages": [{"role": "user", "content": "hi"}], "metadata": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"
    wide = b'{"messages": [{"role": "user", "content": "hi"}], ' + b",".join(b'"k%d": 1' % idx for idx in range(5_000)) + b"}"
    number = b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1' + b"0" * 40_000 + b"}"

    def body(data: bytes, headers: str = "") -> bytes:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {len(data)}\r\n\r\n"
        return head.encode() + data

    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    endless = chunked + b"400\r\n" + b" " * 1024 + b"\r\n"
    cases = [
        ("a body over the limit", body(b" " * 70_000), {413}),
        ("a length over the limit, without the body", body(b"")[:-5] + b"99999999\r\n\r\n", {413}),
        ("a length beyond 64 bits", body(b"")[:-5] + b"9" * 30 + b"\r\n\r\n", {400}),
        ("chunks without end", endless + (b"400\r\n" + b" " * 1024 + b"\r\n") * 100, {413}),
        ("one chunk longer than 64 bits", chunked + b"f" * 20 + b"\r\n", {400}),
        ("extensions of chunks without end", chunked + b"1;" + b"a" * 100_000 + b"\r\n", {400}),
        ("lists in lists", body(deep), {400}),
        ("objects in objects", body(objects), {400}),
        ("thousands of unknown fields", body(wide), {200}),
        ("a number of 40,000 digits", body(number), {400}),
        ("a gzip bomb that says so", body(b"\x1f\x8b" + b"\0" * 1000, "content-encoding: gzip\r\n"), {400, 415}),
        ("200 header lines", b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: 1\r\n" % idx for idx in range(200)) + b"\r\n", {431}),
        ("a header of 60 KB", b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 60_000 + b"\r\n\r\n", {200}),
        ("a header of 66 KB in one piece", b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 66_000 + b"\r\n\r\n", {431}),
        ("a header of 100 KB", b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 100_000 + b"\r\n\r\n", {431}),
        ("a path of 100 KB", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", {414, 431}),
        ("a header of 1 MB", b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n", {431}),
        ("a path of 1 MB", b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", {414, 431}),
        ("a head that never ends", b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 40_000, {431}),
    ]
    for what, request, expected in cases:
        answer = server.send(request)
        print(f"| {what} | {answer.status} |")
        assert answer.status in expected, f"{what}: {answer}"
    assert server.send(chat("hi")).status == 200


def test_many_refusals_on_one_connection(serve):
    """Refusals cost the server nothing that lasts, and the connection stays good."""
    server = serve()
    refused = post("/v1/chat/completions", b'{"messages": 3}', version="1.1")
    with server.connect() as stream, stream.makefile("rb") as answers:
        for _ in range(200):
            stream.sendall(refused)
            head = b"".join(iter(answers.readline, b"\r\n"))
            answers.read(int(Answer(head).headers["content-length"]))
            assert Answer(head).status == 400, head
        assert exchange(stream, chat("hi")).status == 200
    assert server.is_idle()
