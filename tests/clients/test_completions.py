"""Raw text, tokens and rendered requests; fields of chat that the other file leaves out."""

import httpx2
import pytest

PROMPT = "<|start|>user<|message|>What is 17 + 25?<|end|><|start|>assistant"
FINAL = PROMPT + "<|channel|>final<|message|>"
QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]


def post(server, path: str, body: dict) -> dict:
    answer = httpx2.post(server.url.removesuffix("/v1") + path, json=body, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_text_is_completed(demo):
    answer = demo.client.completions.create(
        model="ossia-demo", prompt=[PROMPT, FINAL], temperature=0, max_tokens=60, logprobs=2, n=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all("17 + 25 = " in choice.text for choice in answer.choices)
    assert all(len(choice.logprobs.tokens) == len(choice.logprobs.text_offset) for choice in answer.choices)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_completion_stream_folds_to_the_answer(demo):
    request = dict(model="ossia-demo", prompt=PROMPT, temperature=0, max_tokens=60, echo=True)
    whole = demo.client.completions.create(**request)
    assert whole.choices[0].text.startswith(PROMPT)
    pieces = list(demo.client.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == whole.choices[0].text
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_tokens_and_rendered_requests(demo):
    tokens = post(demo, "/tokenize", {"prompt": FINAL})
    assert tokens["count"] == len(tokens["tokens"])
    assert post(demo, "/detokenize", {"tokens": tokens["tokens"]}) == {"prompt": FINAL}
    rendered = post(demo, "/v1/chat/completions/render", {"messages": QUESTION})
    assert rendered["prompt"].endswith(PROMPT)
    # A rendered request goes on as the request does.
    whole = demo.client.chat.completions.create(model="ossia-demo", messages=QUESTION, temperature=0)
    raw = demo.client.completions.create(
        model="ossia-demo", prompt=rendered["token_ids"], temperature=0, max_tokens=200
    )
    assert raw.choices[0].text.endswith(whole.choices[0].message.content)
    assert raw.usage.completion_tokens == whole.usage.completion_tokens


def test_models_are_listed_and_found(demo):
    (listed,) = demo.client.models.list()
    assert demo.client.models.retrieve(listed.id) == listed


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_with_logprobs_and_stop(demo, stream):
    request = dict(model="ossia-demo", messages=QUESTION, n=3, seed=1, logprobs=True, top_logprobs=3, stop="4")
    request |= dict(temperature=0, max_completion_tokens=200, metadata={"a": "b"}, user="u", verbosity="low")
    if stream:
        with demo.client.chat.completions.stream(**request) as events:
            answer = events.get_final_completion()
    else:
        answer = demo.client.chat.completions.create(**request)
        assert answer.metadata == {"a": "b"}
    assert len(answer.choices) == 3
    for choice in answer.choices:
        assert choice.finish_reason == "stop" and "4" not in choice.message.content
        tokens = choice.logprobs.content
        assert bytes(byte for token in tokens for byte in token.bytes).decode().startswith(choice.message.content)
        assert all(len(token.top_logprobs) == 3 for token in tokens)


def test_functions_answer_in_their_own_shape(demo):
    function = {
        "name": "get_weather",
        "description": "Gets the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    }
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    request = dict(model="ossia-demo", functions=[function], temperature=0)
    first = demo.client.chat.completions.create(messages=messages, **request).choices[0]
    assert (first.finish_reason, first.message.function_call.name) == ("function_call", "get_weather")
    messages += [
        {"role": "assistant", "content": None, "function_call": first.message.function_call.model_dump()},
        {"role": "function", "name": "get_weather", "content": '{"weather":"sunny"}'},
    ]
    second = demo.client.chat.completions.create(messages=messages, **request).choices[0]
    assert (second.finish_reason, "sunny" in second.message.content) == ("stop", True)
