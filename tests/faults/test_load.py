"""More clients than a server has places: 2,000 open streams, and ten times what it can serve.

Statuses and counts are asserted; times are printed (`-s`) for docs/benchmarks.
"""

import asyncio
import pathlib
import re

import pytest

from conftest import until
from streams import Outcome, percentile, request

CHAT = "/v1/chat/completions"
NUM_STREAMS = 2000


def body(text: str, **fields) -> dict:
    return {"messages": [{"role": "user", "content": text}], "stream": True, "temperature": 0, **fields}


def peak_rss_mib(server) -> float:
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


@pytest.mark.thorough
def test_two_thousand_streams_are_held(serve):
    """All are open at once, as many decode together as there are blocks for, and each ends as it should."""
    server = serve("--max-num-seqs", str(NUM_STREAMS), "--max-queue-len", str(NUM_STREAMS), "--kv-cache-memory", "512MiB", model="demo")
    before = server.rss_bytes() / (1 << 20)
    most = [0, 0]

    async def load() -> list[Outcome]:
        opened = [asyncio.Event() for _ in range(NUM_STREAMS)]
        tasks = [asyncio.create_task(one(idx, opened[idx])) for idx in range(NUM_STREAMS)]
        for event in opened:
            await event.wait()
        assert not any(task.done() for task in tasks), "a stream ended before the last had begun"
        most[0] = server.num_descriptors()
        while not all(task.done() for task in tasks):
            loads = await asyncio.to_thread(server.loads)
            most[1] = max(most[1], loads["num_running"])
            await asyncio.sleep(0.5)
        return [task.result() for task in tasks]

    async def one(idx: int, opened: asyncio.Event) -> Outcome:
        # Tokens are forced out, so that no stream can end before all are open.
        fields = {"max_tokens": 64, "ignore_eos": True}
        return await request(server.port, CHAT, body(f"What is {idx} + 1?", **fields), opened)

    outcomes = asyncio.run(load())
    failed = [outcome for outcome in outcomes if outcome.status != 200 or not outcome.is_whole or outcome.error]
    assert not failed, f"{len(failed)} failed, the first: {failed[0]}"
    assert most[0] > NUM_STREAMS, f"{most[0]} descriptors"
    server.wait_until_idle()
    until("all connections are closed", lambda: server.num_descriptors() < 100)
    first = [outcome.first_s for outcome in outcomes]
    print(
        f"\n2,000 streams: {most[1]} sequences at the same time, {most[0]} descriptors, resident {before:.0f} -> {peak_rss_mib(server):.0f} MiB; "
        f"head p50 {percentile([o.head_s for o in outcomes], 50):.2f} s, first token p50 {percentile(first, 50):.1f} s "
        f"p99 {percentile(first, 99):.1f} s, last end {max(o.end_s for o in outcomes):.1f} s"
    )


def test_ten_times_too_much_is_refused_and_the_admitted_are_served(serve):
    """16 places and 16 to wait; 16 clients keep the places full, then 160 ask as fast as they are answered.

    Who is admitted may find the queue full before it, and waits for one more answer at most."""
    server = serve("--max-num-seqs", "16", "--max-queue-len", "16")
    few = asyncio.run(closed_loop(server.port, 16, 4))
    assert {outcome.status for outcome in few} == {200}, "what fits is not refused"
    many = asyncio.run(closed_loop(server.port, 160, 8))
    admitted = [outcome for outcome in many if outcome.status == 200]
    refused = [outcome for outcome in many if outcome.status == 429]
    assert len(admitted) + len(refused) == len(many), {outcome.status for outcome in many}
    assert len(refused) > len(admitted) > 0
    assert all(outcome.is_whole and not outcome.error for outcome in admitted)
    assert all(int(outcome.headers["retry-after"]) >= 1 for outcome in refused)
    server.wait_until_idle()
    waits = [outcome.head_s * 1e3 for outcome in refused]
    print(f"\n{len(admitted)} admitted, {len(refused)} refused with 429: p50 {percentile(waits, 50):.1f} ms, p99 {percentile(waits, 99):.1f} ms, max {max(waits):.1f} ms")
    for name, outcomes in [("at capacity", few), ("admitted under 10x", admitted)]:
        ends = [outcome.end_s for outcome in outcomes]
        print(f"{name}: whole answer p50 {percentile(ends, 50):.2f} s, p99 {percentile(ends, 99):.2f} s")


async def closed_loop(port: int, num_clients: int, num_each: int) -> list[Outcome]:
    """Each client asks again when it is answered; one that is refused waits a little, less than it was told."""

    async def client() -> list[Outcome]:
        outcomes = []
        for _ in range(num_each):
            outcomes.append(await request(port, CHAT, body("ticks")))
            await asyncio.sleep(0.25 if outcomes[-1].status == 429 else 0)
        return outcomes

    return sum(await asyncio.gather(*(client() for _ in range(num_clients))), [])
