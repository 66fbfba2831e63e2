"""Greedy decoding by a server that speaks OpenAI's /v1/completions: the judge of what is served."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

NUM_CLIENTS = 8


def complete(base_url: str, prompts: list[str], max_new_tokens: int = 160) -> list[str]:
    """Completions as text, special tokens included, in the order of the prompts."""
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        return list(pool.map(lambda prompt: _complete(base_url, prompt, max_new_tokens), prompts))


def _complete(base_url: str, prompt: str, max_new_tokens: int) -> str:
    choice = _ask(base_url, prompt, max_tokens=max_new_tokens)
    if choice["finish_reason"] != "stop":
        return choice["text"]
    # What ended the turn is no text; it is the most probable token after it.
    text = choice["text"]
    top = _ask(base_url, prompt + text, max_tokens=1, min_tokens=1, logprobs=1)["logprobs"]["top_logprobs"][0]
    return text + max(top, key=top.get)


def _ask(base_url: str, prompt: str, **options) -> dict:
    body = {"prompt": prompt, "temperature": 0, "skip_special_tokens": False, **options}
    request = urllib.request.Request(f"{base_url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]
