"""Jumps of the wall clock, by libfaketime: durations are measured by the monotonic clock and do not see them."""

import json
import os
import pathlib
import threading
import time

import pytest

from conftest import chat, post, until

PLACES = [pathlib.Path(f"/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1") for arch in ("x86_64", "aarch64")]
LIBRARY = next((path for path in PLACES if path.exists()), None)


@pytest.fixture
def jumping(serve, tmp_path):
    """A server whose wall clock is set by what is written into a file, and what writes it."""
    if LIBRARY is None:
        assert "CI" not in os.environ, "libfaketime is not installed: run `cargo xtask setup`"
        pytest.skip("libfaketime is not installed: run `cargo xtask setup`")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    env = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # As the system does it: setting the time moves one clock and not the other.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    (tmp_path / "keys.toml").write_text("")
    server = serve("--client-timeout", "5s", store=f"sqlite:{tmp_path / 'store.sqlite'}", env=env)
    return server, offset.write_text


def respond(server, text: str, **fields):
    return server.send(post("/v1/responses", json.dumps({"input": text, **fields}).encode()))


def test_the_library_does_move_the_clock(jumping):
    server, jump = jumping
    jump("+400d")
    assert respond(server, "hi").json()["created_at"] > time.time() + 399 * 86_400


@pytest.mark.parametrize("by", ["+1d", "-1d", "+20y", "-20y"])
def test_a_jump_cuts_no_stream_and_times_nobody_out(jumping, by):
    server, jump = jumping
    idle = server.connect()
    answers = []
    streams = [threading.Thread(target=lambda: answers.append(server.send(chat("ticks", stream=True)))) for _ in range(8)]
    for stream in streams:
        stream.start()
    until("all run", lambda: server.loads()["num_running"] == 8)
    jump(by)
    assert server.send(chat("hi")).status == 200
    # A connection that says nothing is dropped after five seconds, not at once and not in twenty years.
    idle.sendall(chat("hi"))
    assert b" 200 " in idle.recv(1 << 16)[:20]
    idle.close()
    for stream in streams:
        stream.join()
    for answer in answers:
        assert answer.status == 200 and answer.body.rstrip().endswith(b"data: [DONE]"), answer
        assert b'"error"' not in answer.body
    assert server.metric("vllm:e2e_request_latency_seconds_sum") < 600, "a latency by the wall clock"
    server.wait_until_idle()


def test_what_was_stored_is_there_after_the_clock_went_back(jumping):
    server, jump = jumping
    first = respond(server, "hi").json()["id"]
    jump("-10d")
    second = respond(server, "hi again", previous_response_id=first)
    assert second.status == 200, second
    background = respond(server, "ticks", background=True).json()
    jump("+10d")
    # Housekeeping goes by the wall clock; it must not take a response for lost that this server works on.
    path = f"/v1/responses/{background['id']}"
    until("the one in the background is done", lambda: server.get(path).json()["status"] not in ("queued", "in_progress"))
    assert server.get(path).json()["status"] == "completed"
    for id in (first, second.json()["id"]):
        assert server.get(f"/v1/responses/{id}").json()["status"] == "completed"
