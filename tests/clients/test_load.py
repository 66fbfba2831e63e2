"""64 concurrent streaming clients with random disconnects: no error, and every block is free at the end."""

import concurrent.futures
import random
import time

import httpx2

CLIENTS = 64
REQUESTS_PER_CLIENT = 3


def stream(url: str, seed: int) -> str:
    """One streamed request; 'cut' when this client went away early, 'done' when the stream ended properly."""
    rng = random.Random(seed)
    cut_after = rng.choice([None, None, 1, 5, 20])
    a, b = rng.randrange(10, 90), rng.randrange(10, 90)
    body = {"messages": [{"role": "user", "content": f"What is {a} + {b}?"}], "stream": True, "max_completion_tokens": 64}
    with httpx2.Client(timeout=300, trust_env=False) as client:
        with client.stream("POST", f"{url}/chat/completions", json=body) as response:
            assert response.status_code == 200, response.read()
            lines = (line for line in response.iter_lines() if line.startswith("data:"))
            for count, line in enumerate(lines, 1):
                assert '"error"' not in line, line
                if line == "data: [DONE]":
                    return "done"
                if count == cut_after:
                    return "cut"
    return "ended without [DONE]"


def wait_until_idle(url: str) -> dict:
    for _ in range(600):
        stats = httpx2.get(url.removesuffix("/v1") + "/v1/loads", trust_env=False).json()
        if stats["num_running"] == 0 and stats["num_waiting"] == 0:
            return stats
        time.sleep(0.1)
    raise AssertionError(f"never idle: {stats}")


def test_concurrent_streams_with_disconnects(demo):
    seeds = range(CLIENTS * REQUESTS_PER_CLIENT)
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(lambda seed: stream(demo.direct_url, seed), seeds))
    assert set(outcomes) == {"done", "cut"}, outcomes
    stats = wait_until_idle(demo.direct_url)
    assert stats["num_blocks_used"] == 0
    assert stats["num_blocks_free"] + stats["num_blocks_cached"] == stats["num_blocks_total"]
