"""Responses through the official Python SDK: text, reasoning, tools and their results, streaming and not."""

import json

import pytest

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Gets the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city"}},
        "required": ["city"],
    },
    "strict": False,
}


def final_response(client, stream: bool, **request):
    """The response, taken from the last event when streaming, with the events checked on the way."""
    if not stream:
        return client.responses.create(**request)
    events = list(client.responses.create(**request, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    done_text = [event.text for event in events if event.type == "response.output_text.done"]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert "".join(done_text) == deltas
    assert events[-1].type == "response.completed"
    return events[-1].response


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_reasoning(demo, stream):
    response = final_response(demo.client, stream, model="ossia-demo", input="What is 17 + 25?", temperature=0)
    assert response.status == "completed"
    assert "42" in response.output_text
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].type == "reasoning_text"
    assert response.usage.output_tokens_details.reasoning_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_call_and_its_result(demo, stream):
    request = dict(model="ossia-demo", tools=[WEATHER], temperature=0)
    items = [{"role": "user", "content": "What is the weather in Paris?"}]
    response = final_response(demo.client, stream, input=items, **request)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}
    items += [item.model_dump(exclude_none=True) for item in response.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": '{"weather":"sunny"}'})
    answer = final_response(demo.client, stream, input=items, **request)
    assert "sunny" in answer.output_text


def test_effort_lengthens_reasoning(demo):
    def tokens(effort: str) -> int:
        response = demo.client.responses.create(
            model="ossia-demo", input="What is 34 + 58?", temperature=0, reasoning={"effort": effort}
        )
        return response.usage.output_tokens_details.reasoning_tokens

    assert tokens("low") < tokens("high")


def test_max_output_tokens_leaves_the_response_incomplete(demo):
    response = demo.client.responses.create(
        model="ossia-demo", input="What is 17 + 25?", reasoning={"effort": "high"}, max_output_tokens=16, temperature=0
    )
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 16
