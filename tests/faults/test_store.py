"""A store that somebody else holds: what needs it waits, what does not goes on."""

import json
import sqlite3
import subprocess
import threading

import pytest

from conftest import OSSIA, chat, post, until


def respond(server, text: str, **fields):
    return server.send(post("/v1/responses", json.dumps({"input": text, **fields}).encode()))


@pytest.fixture
def held(serve, tmp_path):
    """A server, and a connection of another process's kind that can hold its store."""
    path = tmp_path / "store.sqlite"
    server = serve(store=f"sqlite:{path}")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    yield server, other
    other.close()


def test_who_needs_a_locked_store_waits_and_nobody_else_does(held):
    server, other = held
    before = respond(server, "hi before").json()["id"]
    other.execute("BEGIN IMMEDIATE")
    answers = []
    waiting = [threading.Thread(target=lambda: answers.append(respond(server, "hi"))) for _ in range(4)]
    for thread in waiting:
        thread.start()
    until("the four are generated", lambda: server.loads()["num_finished_total"] >= 5)
    for _ in range(3):
        assert server.send(chat("hi")).status == 200
        assert respond(server, "hi", store=False).status == 200
        assert server.get("/ready").status == 200
        assert server.get(f"/v1/responses/{before}").json()["status"] == "completed", "reading needs no lock"
    assert not answers, "an answer went out before it was stored"
    other.execute("ROLLBACK")
    for thread in waiting:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 4
    for answer in answers:
        assert server.get(f"/v1/responses/{answer.json()['id']}").status == 200


@pytest.mark.thorough
def test_a_store_that_stays_locked_is_a_503_and_no_end(held):
    """The wait has a bound, half a minute; then it is said, and the server goes on when the lock is gone."""
    server, other = held
    other.execute("BEGIN IMMEDIATE")
    answer = respond(server, "hi")
    assert answer.status == 503 and "store" in answer.json()["error"]["message"], answer
    assert "database is locked" in server.log, server.log
    other.execute("ROLLBACK")
    assert respond(server, "hi").status == 200
    server.wait_until_idle()


@pytest.mark.thorough
def test_a_server_that_finds_its_store_locked_says_so(tmp_path):
    path = tmp_path / "store.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    command = [OSSIA, "serve", "scripted:", "--config", "none", "--port", "0", "--store", f"sqlite:{path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 1 and "database is locked" in done.stderr, done.stderr


def test_a_store_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database " * 1000)
    command = [OSSIA, "serve", "scripted:", "--config", "none", "--port", "0", "--store", f"sqlite:{path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and str(path) in done.stderr and "panicked" not in done.stderr, done.stderr
