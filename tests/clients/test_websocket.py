"""Responses over a WebSocket, through the official Python SDK; its events are held against OpenAI's document here."""

import json

import openai
import pytest

import contract


@pytest.fixture
def connection(demo):
    """A connection straight to the server: the judging proxy only knows HTTP."""
    client = openai.OpenAI(base_url=demo.direct_url, api_key="not-needed", max_retries=0, timeout=120)
    with client.responses.connect() as connection:
        yield connection


def respond(connection, **request):
    """The last event of a response, and how many came before it."""
    connection.response.create(model="ossia-demo", temperature=0, **request)
    names = []
    while True:
        event = json.loads(connection.recv_bytes())
        names.append(event["type"])
        if event["type"] == "error":
            return event, names
        assert contract.event_faults("POST", "/v1/responses", event) == []
        if event["type"] in ("response.completed", "response.incomplete", "response.failed"):
            return event["response"], names


def text_of(response: dict) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def test_responses_follow_each_other_on_one_connection(connection):
    first, names = respond(connection, input="What is 17 + 25?", store=False)
    assert "42" in text_of(first)
    assert names[:2] == ["response.created", "response.in_progress"] and "response.output_text.delta" in names
    second, _ = respond(connection, input="What is 34 + 58?", previous_response_id=first["id"], store=False)
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_what_was_not_kept_is_not_found_on_another_connection(demo, connection):
    first, _ = respond(connection, input="What is 17 + 25?", store=False)
    client = openai.OpenAI(base_url=demo.direct_url, api_key="not-needed", max_retries=0, timeout=120)
    with client.responses.connect() as other:
        error, _ = respond(other, input="And?", previous_response_id=first["id"], store=False)
        assert error["error"]["code"] == "previous_response_not_found"
        # The connection outlives the fault.
        assert "42" in text_of(respond(other, input="What is 17 + 25?")[0])
