"""API keys through the official SDK: its own error classes, the limits it can read, its retries."""

import subprocess

import openai
import pytest

from conftest import OSSIA

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of keys, and what makes one more."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"

    def new(*args: str) -> str:
        command = [OSSIA, "key", "new", "--config", "none", "--api-keys", str(path), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return path, new


@pytest.fixture(scope="module")
def guarded(serve, keys):
    """A server that wants keys, and what makes a client with one."""
    path, new = keys
    known = {name: new("--name", name, *args) for name, args in {
        "free": [], "limited": ["--requests-per-minute", "2"], "elsewhere": ["--model", "another"],
    }.items()}
    server = serve("guarded", "scripted:", "--api-keys", str(path))

    def client(name: str, **options) -> openai.OpenAI:
        return openai.OpenAI(base_url=server.url, api_key=known.get(name, name), **{"max_retries": 0, **options})

    return client


def chat(client: openai.OpenAI):
    return client.chat.completions.create(model="scripted", messages=HI)


def test_a_good_key_opens_and_others_are_authentication_errors(guarded):
    assert chat(guarded("free")).choices[0].message.content
    with pytest.raises(openai.AuthenticationError) as caught:
        chat(guarded("sk-ossia-nobody"))
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


def test_a_model_that_is_not_for_this_key_is_a_permission_error(guarded):
    with pytest.raises(openai.PermissionDeniedError) as caught:
        chat(guarded("elsewhere"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_limits_are_told_and_are_rate_limit_errors(guarded):
    client = guarded("limited")
    raw = client.chat.completions.with_raw_response.create(model="scripted", messages=HI)
    assert (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    chat(client)
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="scripted", input="hi")
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert int(caught.value.response.headers["retry-after"]) in range(1, 31)
