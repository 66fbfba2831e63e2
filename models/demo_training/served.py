"""Greedy decoding by a server that speaks OpenAI's /v1/completions: the judge of what is served."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from .decode import STOP_TOKENS

NUM_CLIENTS = 8


def complete(base_url: str, prompts: list[str], max_new_tokens: int = 160) -> list[str]:
    """Completions as text, special tokens included, in the order of the prompts."""
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        return list(pool.map(lambda prompt: _complete(base_url, prompt, max_new_tokens), prompts))


def _complete(base_url: str, prompt: str, max_new_tokens: int) -> str:
    # What ends a turn is no text: the server goes on after it, and what follows is cut off here.
    body = {"prompt": prompt, "max_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True, "skip_special_tokens": False}
    request = urllib.request.Request(f"{base_url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        text = json.load(response)["choices"][0]["text"]
    end = min((at + len(stop) for stop in STOP_TOKENS if (at := text.find(stop)) >= 0), default=len(text))
    return text[:end]
