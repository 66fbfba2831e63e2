"""Chat Completions through the official Python SDK: text, reasoning, tools and their results, streaming and not."""

import json

import openai
import pytest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Gets the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]


def reasoning_of(message) -> str:
    return message.model_extra["reasoning"]


def test_an_answer_has_content_reasoning_and_exact_usage(demo):
    answer = demo.client.chat.completions.create(model="ossia-demo", messages=QUESTION, temperature=0)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert "42" in choice.message.content
    assert reasoning_of(choice.message)
    assert choice.message.model_extra["reasoning_content"] == reasoning_of(choice.message)
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


def test_the_stream_folds_to_the_answer(demo):
    request = dict(model="ossia-demo", messages=QUESTION, temperature=0)
    whole = demo.client.chat.completions.create(**request)
    content, reasoning, finish, usage = "", "", None, None
    for chunk in demo.client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning") or ""
            finish = choice.finish_reason or finish
    assert content == whole.choices[0].message.content
    assert reasoning == reasoning_of(whole.choices[0].message)
    assert finish == "stop"
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_reasoning_grows_with_effort(demo):
    def tokens(effort: str) -> int:
        total = 0
        for a, b in [(17, 25), (34, 58), (61, 27), (45, 39)]:
            messages = [{"role": "user", "content": f"What is {a} + {b}?"}]
            answer = demo.client.chat.completions.create(
                model="ossia-demo", messages=messages, temperature=0, reasoning_effort=effort
            )
            total += answer.usage.completion_tokens_details.reasoning_tokens
        return total

    assert tokens("low") < tokens("medium") < tokens("high")


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_call_and_its_result(demo, stream):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    call = first_call(demo.client, messages, stream)
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": "Paris"}
    messages += [
        {
            "role": "assistant",
            "tool_calls": [
                {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            ],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": '{"weather":"sunny"}'},
    ]
    answer = demo.client.chat.completions.create(model="ossia-demo", messages=messages, tools=[WEATHER], temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert "sunny" in answer.choices[0].message.content


def first_call(client, messages, stream: bool) -> dict:
    request = dict(model="ossia-demo", messages=messages, tools=[WEATHER], temperature=0)
    if not stream:
        choice = client.chat.completions.create(**request).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        return {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
    call, finish = {"id": "", "name": "", "arguments": ""}, None
    for chunk in client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for delta in choice.delta.tool_calls or []:
                call["id"] += delta.id or ""
                call["name"] += delta.function.name or ""
                call["arguments"] += delta.function.arguments or ""
    assert finish == "tool_calls"
    return call


def test_a_seed_gives_the_same_answer_twice(demo):
    def ask() -> str:
        answer = demo.client.chat.completions.create(
            model="ossia-demo", messages=QUESTION, temperature=1.5, seed=7, max_completion_tokens=60
        )
        return answer.choices[0].model_dump_json()

    assert ask() == ask()


def test_max_completion_tokens_ends_with_length(demo):
    answer = demo.client.chat.completions.create(model="ossia-demo", messages=QUESTION, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_errors_are_openai_errors(demo):
    with pytest.raises(openai.NotFoundError) as unknown:
        demo.client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as range_error:
        demo.client.chat.completions.create(model="ossia-demo", messages=QUESTION, temperature=9)
    assert range_error.value.param == "temperature"


def test_models_say_where_a_model_comes_from(demo, scripted):
    assert [model.model_extra["root"] for model in scripted.client.models.list()] == ["scripted"]
    assert [model.model_extra["root"] for model in demo.client.models.list()] == ["ossia-demo"]


def test_the_scripted_runner_calls_the_first_tool(scripted):
    answer = scripted.client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "Weather?"}], tools=[WEATHER]
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
