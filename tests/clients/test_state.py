"""State through the official Python SDK: stored responses and completions, conversations, the background, formats."""

import json
import time

import openai
import pytest

MODEL = "ossia-demo"
# Bounded, for a model that was never shown JSON may not know when a number is over.
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
SUM = {"type": "object", "properties": {"sum": NUMBER}, "required": ["sum"], "additionalProperties": False}


def test_a_stored_response_is_read_streamed_again_and_deleted(demo):
    responses = demo.client.responses
    first = responses.create(model=MODEL, input="What is 17 + 25?", temperature=0, metadata={"topic": "sums"})
    assert responses.retrieve(first.id) == first
    assert [item.content[0].text for item in responses.input_items.list(first.id)] == ["What is 17 + 25?"]
    second = responses.create(model=MODEL, input="What is 34 + 58?", previous_response_id=first.id, temperature=0)
    assert second.previous_response_id == first.id and second.usage.input_tokens > first.usage.input_tokens
    responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        responses.retrieve(first.id)


def test_a_response_in_the_background_is_polled(demo):
    responses = demo.client.responses
    response = responses.create(model=MODEL, input="What is 17 + 25?", background=True, temperature=0)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = responses.retrieve(response.id)
    assert response.status == "completed" and "42" in response.output_text
    events = list(responses.retrieve(response.id, stream=True))
    assert events[-1].type == "response.completed"
    rest = list(responses.retrieve(response.id, stream=True, starting_after=events[2].sequence_number))
    assert [event.sequence_number for event in rest] == [event.sequence_number for event in events[3:]]


def test_a_conversation_grows_with_its_responses(demo):
    conversation = demo.client.conversations.create(metadata={"topic": "sums"})
    items = demo.client.conversations.items
    assert demo.client.conversations.retrieve(conversation.id).metadata == {"topic": "sums"}
    items.create(conversation.id, items=[{"role": "user", "content": "Hello."}])
    demo.client.responses.create(model=MODEL, input="What is 17 + 25?", conversation=conversation.id, temperature=0)
    listed = list(items.list(conversation.id, order="asc"))
    assert [item.type for item in listed] == ["message", "message", "reasoning", "message"]
    assert items.retrieve(listed[0].id, conversation_id=conversation.id).id == listed[0].id
    items.delete(listed[0].id, conversation_id=conversation.id)
    assert len(list(items.list(conversation.id))) == 3
    demo.client.conversations.update(conversation.id, metadata={"topic": "more"})
    demo.client.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        demo.client.conversations.retrieve(conversation.id)


def test_a_stored_completion_is_listed_changed_and_deleted(demo):
    completions = demo.client.chat.completions
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    created = completions.create(model=MODEL, messages=messages, store=True, metadata={"run": "1"}, temperature=0)
    assert created.id in [stored.id for stored in completions.list(metadata={"run": "1"})]
    assert [message.content for message in completions.messages.list(created.id)] == ["What is 17 + 25?"]
    assert completions.update(created.id, metadata={"run": "2"}).metadata == {"run": "2"}
    assert completions.retrieve(created.id).metadata == {"run": "2"}
    assert completions.delete(created.id).deleted


def test_input_is_counted_and_compacted(demo):
    counted = demo.client.responses.input_tokens.count(model=MODEL, input="What is 17 + 25?")
    answered = demo.client.responses.create(model=MODEL, input="What is 17 + 25?", temperature=0)
    assert counted.input_tokens == answered.usage.input_tokens
    compacted = demo.client.responses.compact(model=MODEL, previous_response_id=answered.id)
    assert compacted.output


@pytest.mark.parametrize("stream", [False, True])
def test_formats_hold_in_both_apis(demo, stream):
    schema = {"name": "answer", "schema": SUM, "strict": True}
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    chat = dict(model=MODEL, temperature=0, messages=messages, response_format={"type": "json_schema", "json_schema": schema})
    create = dict(model=MODEL, temperature=0, input="What is 17 + 25?", text={"format": {"type": "json_schema", **schema}})
    if stream:
        with demo.client.chat.completions.stream(**chat) as events:
            content = events.get_final_completion().choices[0].message.content
        with demo.client.responses.stream(**create) as events:
            text = events.get_final_response().output_text
    else:
        content = demo.client.chat.completions.create(**chat).choices[0].message.content
        text = demo.client.responses.create(**create).output_text
    assert all(isinstance(json.loads(answer)["sum"], int) for answer in (content, text))


def test_sealed_reasoning_comes_back(demo):
    create = dict(model=MODEL, store=False, include=["reasoning.encrypted_content"], temperature=0)
    first = demo.client.responses.create(input="What is 17 + 25?", **create)
    assert first.output[0].encrypted_content
    items = [{"role": "user", "content": "What is 17 + 25?"}]
    items += [item.model_dump(exclude_none=True) for item in first.output]
    items.append({"role": "user", "content": "What is 34 + 58?"})
    assert demo.client.responses.create(input=items, **create).status == "completed"


def test_a_response_in_the_background_is_cancelled(slow):
    responses = slow.client.responses
    response = responses.create(model="scripted", input="Take your time.", background=True)
    assert response.status in ("queued", "in_progress")
    assert responses.cancel(response.id).status == "cancelled"
    assert responses.retrieve(response.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        responses.cancel(responses.create(model="scripted", input="At once.", store=True).id)


def test_a_stream_in_the_background_is_taken_up_again(slow):
    responses = slow.client.responses
    stream = responses.create(model="scripted", input="Take your time.", background=True, stream=True)
    events = [next(stream) for _ in range(4)]
    stream.close()
    rest = responses.retrieve(events[0].response.id, stream=True, starting_after=events[-1].sequence_number)
    events += list(rest)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
