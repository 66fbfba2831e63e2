"""Secrets that must not be written down: everything is done at the most talkative level, and then read."""

import base64
import json
import re
import subprocess

from conftest import OSSIA, chat, environment, post
from test_disk import REPO, hub  # noqa: F401  (a fixture)

PROMPT, ANSWER_ARGUMENT, PASSWORD, TOKEN = "xylophone4711", "marimba4711", "celesta4711", "hf_glockenspiel4711"
SEALING_KEY = "5ea1" * 16


def ossia(dir, *args: str, env=None) -> str:
    """All that a command says."""
    done = subprocess.run([OSSIA, *args], cwd=dir, capture_output=True, text=True, timeout=120, env=environment(env))
    return done.stdout + done.stderr


def requests(key: str) -> list[bytes]:
    """One of each kind, good and bad, with secrets wherever one can be."""
    auth = f"authorization: Bearer {key}\r\ncookie: session={PASSWORD}\r\nproxy-authorization: Basic {PASSWORD}\r\n"
    wrong = f"authorization: Bearer sk-ossia-{PASSWORD}\r\n"
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"RS256"}', b'{"sub":"x"}', PASSWORD.encode()))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"const": ANSWER_ARGUMENT}}}}}
    responses = {"input": f"hi {PROMPT}", "instructions": PROMPT, "metadata": {"a": PROMPT}, "include": ["reasoning.encrypted_content"]}
    bodies = [
        ("/v1/responses", responses),
        ("/v1/responses", {**responses, "stream": True}),
        ("/v1/responses", {**responses, "tools": [{"type": "function", "name": "f", "parameters": {}}]}),
        ("/v1/responses", {"input": [{"type": PROMPT}]}),
        ("/v1/responses", {**responses, "previous_response_id": PROMPT}),
        ("/v1/completions", {"prompt": PROMPT}),
        ("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": PROMPT}]}),
        ("/tokenize", {"prompt": PROMPT}),
    ]
    return [
        chat(f"hi {PROMPT}", headers=auth, tools=[tool]),
        chat(f"hi {PROMPT}", headers=auth, stream=True, store=True, metadata={"a": PROMPT}),
        chat(f"hi {PROMPT}", headers=auth, response_format={"type": PROMPT}),
        chat(f"hi {PROMPT}", headers=wrong),
        chat(f"hi {PROMPT}", headers=f"authorization: Bearer {token}\r\n"),
        post("/v1/chat/completions", f'{{"messages": "{PROMPT}'.encode(), headers=auth),
        *(post(path, json.dumps(body).encode(), headers=auth) for path, body in bodies),
    ]


def test_a_server_at_trace_writes_none_down(serve, tmp_path):
    keys = ["--config", "none", "--api-keys", str(tmp_path / "keys.toml")]
    key = ossia(tmp_path, "key", "new", *keys, "--name", "a").splitlines()[0]
    assert key.startswith("sk-ossia-"), key
    jwks = {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}
    (tmp_path / "jwks.json").write_text(json.dumps(jwks))
    oidc = ["--oidc-issuer", "https://login.example", "--oidc-audience", "ossia", "--oidc-jwks", str(tmp_path / "jwks.json")]
    args = ["--log", "trace", "--api-keys", str(tmp_path / "keys.toml"), *oidc, "--audit-log", str(tmp_path / "audit.jsonl")]
    server = serve(*args, store=f"sqlite:{tmp_path / 'store.sqlite'}", env={"OSSIA_ENCRYPTION_KEY": SEALING_KEY, "HF_TOKEN": TOKEN})
    statuses = [server.send(request).status for request in requests(key)]
    assert {200, 400, 401} <= set(statuses), statuses
    assert server.stop() == 0
    log = server.log
    assert "DEBUG" in log and log.count("/v1/") > len(statuses), "it did log"
    audit = (tmp_path / "audit.jsonl").read_text()
    assert audit.count("\n") >= len(statuses) - 2
    for secret in (key, PROMPT, ANSWER_ARGUMENT, PASSWORD, TOKEN, SEALING_KEY, "hello there"):
        lines = [line[:300] for line in (log + audit).splitlines() if secret in line]
        assert not lines, f"{secret} in {lines[:3]}"


def test_passwords_in_urls_are_shown_to_nobody(tmp_path):
    """A database that is not there and keys that cannot be fetched: the errors name the place, not the password."""
    dead = f"postgres://user:{PASSWORD}@127.0.0.1:9/db"
    url = f"http://user:{PASSWORD}@127.0.0.1:9/jwks.json"
    oidc = ["--oidc-issuer", "https://login.example", "--oidc-audience", "ossia", "--oidc-jwks"]
    serve = ["serve", "scripted:", "--config", "none", "--port", "0", "--log", "trace"]
    commands = [
        ([*serve, "--store", dead], "127.0.0.1"),
        ([*serve, "--store", "memory", *oidc, url], "127.0.0.1"),
        (["doctor", "scripted:", "--config", "none", "--port", "0", "--store", dead], "127.0.0.1"),
        (["config", "--config", "none", "--store", dead, *oidc, url], "127.0.0.1"),
    ]
    for command, place in commands:
        said = ossia(tmp_path, *command, env={"OSSIA_ENCRYPTION_KEY": SEALING_KEY, "OSSIA_LOG": "trace"})
        assert place in said, f"{command}: {said}"
        for secret in (PASSWORD, SEALING_KEY):
            lines = [line for line in said.splitlines() if secret in line]
            assert not lines, f"{command}: {lines[:3]}"


def test_a_pull_at_trace_does_not_tell_its_token(tmp_path, hub):  # noqa: F811
    env = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "OSSIA_LOG": "trace"}
    said = ossia(tmp_path, "pull", REPO, env={**env, "NO_PROXY": "*", "no_proxy": "*"})
    assert "snapshots" in said, said
    assert "DEBUG" in said, "it did log"
    lines = [line for line in said.splitlines() if TOKEN in line]
    assert not lines, lines[:3]
    # Nor byte by byte, as clients write what goes over the wire.
    dumps = re.findall(r"TRACE ((?:[0-9a-f]{2}[0-9a-f-]{2} )+)", said)
    dumped = bytes.fromhex(re.sub("[^0-9a-f]", "", "".join(dumps)))
    assert TOKEN.encode() not in dumped
