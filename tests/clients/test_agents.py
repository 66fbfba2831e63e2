"""The OpenAI Agents SDK for Python over both APIs: a loop of tool call, result and answer, streaming and not."""

import asyncio

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)

MODELS = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}


def run(server, model_name: str, api: str, stream: bool, question: str):
    """Runs an agent with a weather tool; gives its result and the cities that the tool was asked for."""
    cities = []

    @function_tool
    def get_weather(city: str) -> str:
        """Gets the weather of a city.

        Args:
            city: The city
        """
        cities.append(city)
        return '{"weather":"sunny"}'

    async def go():
        client = openai.AsyncOpenAI(base_url=server.url, api_key="not-needed", max_retries=0, timeout=120)
        model = MODELS[api](model=model_name, openai_client=client)
        agent = Agent(
            name="weather", model=model, tools=[get_weather], model_settings=ModelSettings(temperature=0)
        )
        config = RunConfig(tracing_disabled=True)
        if not stream:
            return await Runner.run(agent, question, run_config=config)
        result = Runner.run_streamed(agent, question, run_config=config)
        async for _event in result.stream_events():
            pass
        return result

    return asyncio.run(go()), cities


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", MODELS)
def test_the_demo_model_calls_a_tool_and_answers(demo, api, stream):
    result, cities = run(demo, "ossia-demo", api, stream, "What is the weather in Paris?")
    assert cities == ["Paris"]
    assert "sunny" in result.final_output


@pytest.mark.parametrize("api", MODELS)
def test_the_scripted_runner_calls_a_tool_and_answers(scripted, api):
    result, cities = run(scripted, "scripted", api, False, "Weather?")
    assert cities == ["text"]
    assert result.final_output == 'The tool says: {"weather":"sunny"}'
