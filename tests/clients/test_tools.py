"""Several calls in one turn through the official Python SDK and the Agents SDK, in both APIs, streaming and not."""

import asyncio
import json

import openai
import pytest
from agents import Agent, ModelSettings, RunConfig, Runner, function_tool

from test_agents import MODELS

WANTED = [("get_weather", {"city": "Linz"}), ("get_time", {"zone": "CET"}), ("get_weather", {"city": "Graz"})]
CALLS = [
    f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(arguments)}"
    for name, arguments in WANTED
]
RULES = [
    {
        "pattern": "",
        "after_tools": False,
        "text": "<|channel|>analysis<|message|>Three calls.<|end|><|start|>assistant"
        + "<|end|><|start|>assistant".join(CALLS)
        + "<|call|>",
    }
]
PARAMETERS = {
    name: {"type": "object", "properties": {field: {"type": "string"}}, "required": [field], "additionalProperties": False}
    for name, field in (("get_weather", "city"), ("get_time", "zone"))
}
CHAT_TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in PARAMETERS.items()]
RESPONSE_TOOLS = [{"type": "function", "name": name, "parameters": schema, "strict": True} for name, schema in PARAMETERS.items()]
SAID = "The tool says: first\nsecond\nthird"


@pytest.fixture(scope="module")
def caller(serve, tmp_path_factory):
    """The scripted runner, which calls three times before it answers."""
    rules = tmp_path_factory.mktemp("rules") / "rules.json"
    rules.write_text(json.dumps(RULES))
    return serve("tools", f"scripted:{rules}")


def read(calls) -> list:
    return [(call.name, json.loads(call.arguments)) for call in calls]


def chat(client, stream: bool, **request):
    if not stream:
        return client.chat.completions.create(model="scripted", tools=CHAT_TOOLS, **request).choices[0]
    with client.chat.completions.stream(model="scripted", tools=CHAT_TOOLS, **request) as events:
        return events.get_final_completion().choices[0]


def respond(client, stream: bool, **request):
    if not stream:
        return client.responses.create(model="scripted", tools=RESPONSE_TOOLS, **request)
    with client.responses.stream(model="scripted", tools=RESPONSE_TOOLS, **request) as events:
        return events.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
def test_chat_calls_several_tools_and_takes_their_results(caller, stream):
    messages = [{"role": "user", "content": "Both towns, and the time?"}]
    choice = chat(caller.client, stream, messages=messages)
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert read(call.function for call in calls) == WANTED
    assert len({call.id for call in calls}) == 3
    messages.append(choice.message.model_dump(exclude_none=True))
    # The last result comes first, as when tools run side by side.
    results = list(zip(calls, ["first", "second", "third"]))[::-1]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": text} for call, text in results]
    assert chat(caller.client, stream, messages=messages).message.content == SAID


@pytest.mark.parametrize("stream", [False, True])
def test_responses_call_several_tools_and_take_their_results(caller, stream):
    response = respond(caller.client, stream, input="Both towns, and the time?")
    assert response.parallel_tool_calls is True
    calls = [item for item in response.output if item.type == "function_call"]
    assert read(calls) == WANTED
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": text}
        for call, text in list(zip(calls, ["first", "second", "third"]))[::-1]
    ]
    assert respond(caller.client, stream, previous_response_id=response.id, input=results).output_text == SAID


@pytest.mark.parametrize("stream", [False, True])
def test_at_most_one_call_is_made_where_that_is_wanted(caller, stream):
    messages = [{"role": "user", "content": "Both towns, and the time?"}]
    for choice in ("auto", "required"):
        answer = chat(caller.client, stream, messages=messages, parallel_tool_calls=False, tool_choice=choice)
        assert read(call.function for call in answer.message.tool_calls) == WANTED[:1]
        response = respond(
            caller.client, stream, input=messages, parallel_tool_calls=False, tool_choice=choice, store=False
        )
        assert read(item for item in response.output if item.type == "function_call") == WANTED[:1]
        assert response.parallel_tool_calls is False


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", MODELS)
def test_an_agent_answers_after_several_calls(caller, api, stream):
    asked = []

    @function_tool
    def get_weather(city: str) -> str:
        """Gets the weather of a city."""
        asked.append(city)
        return f"weather of {city}"

    @function_tool
    def get_time(zone: str) -> str:
        """Gets the time in a zone."""
        asked.append(zone)
        return f"time in {zone}"

    async def go():
        client = openai.AsyncOpenAI(base_url=caller.url, api_key="not-needed", max_retries=0, timeout=120)
        model = MODELS[api](model="scripted", openai_client=client)
        settings = ModelSettings(parallel_tool_calls=True)
        agent = Agent(name="several", model=model, tools=[get_weather, get_time], model_settings=settings)
        config = RunConfig(tracing_disabled=True)
        if not stream:
            return await Runner.run(agent, "Both towns, and the time?", run_config=config)
        result = Runner.run_streamed(agent, "Both towns, and the time?", run_config=config)
        async for _event in result.stream_events():
            pass
        return result

    result = asyncio.run(go())
    assert sorted(asked) == ["CET", "Graz", "Linz"]
    assert result.final_output == "The tool says: weather of Linz\ntime in CET\nweather of Graz"
