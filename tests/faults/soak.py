"""Half an hour of everything at once: 64 clients with mixed requests on the demo model, memory and cache watched.

    python3 tests/faults/soak.py [--minutes 30] [--clients 64] [--ossia target/debug/ossia] [--out soak.json]

Exits with 1 if anything failed but the 429s that the short queue is there for, or if a block is not free in the end. A build
with debug assertions (the dev profile) also checks the cache's books at each idle moment from inside.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import random
import sys
import tempfile
import time

from conftest import ROOT, Server
from streams import Outcome, percentile, request

CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"
TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"], "additionalProperties": False}}
SCHEMA = {"name": "s", "strict": True, "schema": {"type": "object", "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}}, "required": ["sum"], "additionalProperties": False}}
EVERY_S = 5
# Memory that fills once (arenas, caches of grammars and prompts) is not a leak; the slope is taken after it.
WARM_UP_SHARE = 1 / 6


class Mix:
    """Draws requests. What a client stored before it continues later."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.last_response = None

    def draw(self) -> tuple[str, str, dict, set[int], int | None]:
        """Its kind, path, body, the statuses that are right for it, and after how many events the client goes away."""
        kinds = [
            (self.chat, 30), (self.cut, 10), (self.tools, 10), (self.schema, 5), (self.responses, 20), (self.chained, 5), (self.completion, 5),
            (self.long, 5), (self.bad, 10),
        ]
        return self.rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()

    def question(self) -> str:
        return f"What is {self.rng.randrange(10, 90)} + {self.rng.randrange(10, 90)}?"

    def messages(self, text: str) -> dict:
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 64, "stream": self.rng.random() < 0.6}

    def chat(self):
        return "chat", CHAT, self.messages(self.question()), {200}, None

    def cut(self):
        return "cut off", CHAT, {**self.messages(self.question()), "stream": True}, {200}, self.rng.randrange(1, 20)

    def tools(self):
        tools = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": self.rng.choice(["auto", "required"])}
        return "tools", CHAT, {**self.messages(self.question()), **tools}, {200}, None

    def schema(self):
        return "schema", CHAT, {**self.messages(self.question()), "response_format": {"type": "json_schema", "json_schema": SCHEMA}}, {200}, None

    def responses(self):
        body = {"input": self.question(), "max_output_tokens": 64, "stream": self.rng.random() < 0.5, "store": self.rng.random() < 0.7}
        return "responses", RESPONSES, body, {200}, None

    def chained(self):
        if self.last_response is None:
            return self.responses()
        # It may have been dropped since: the store is small.
        body = {"input": self.question(), "max_output_tokens": 64, "previous_response_id": self.last_response}
        return "chained", RESPONSES, body, {200, 400}, None

    def completion(self):
        return "completion", COMPLETIONS, {"prompt": self.question(), "max_tokens": 16, "stream": True}, {200}, None

    def long(self):
        text = " ".join(self.question() for _ in range(self.rng.randrange(5, 40)))
        return "long", CHAT, self.messages(text), {200}, None

    def bad(self):
        path, body, status = self.rng.choice([
            (CHAT, {"messages": 3}, 400), (CHAT, {"messages": []}, 400), (CHAT, {"messages": [{"role": "x"}]}, 400),
            (CHAT, {"messages": [{"role": "user", "content": "x " * 200_000}]}, 400), (CHAT, {**self.messages("hi"), "model": "none"}, 404),
            (RESPONSES, {"input": "hi", "previous_response_id": "resp_none"}, 400), ("/v1/none", {}, 404),
            (CHAT, {**self.messages("hi"), "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "none"}}}}, 400),
        ])
        return "bad", path, body, {status}, None


class Soak:
    def __init__(self, server: Server, clients: int, seconds: float):
        self.server, self.clients, self.seconds = server, clients, seconds
        self.begun = time.monotonic()
        self.statuses, self.faults = collections.Counter(), []
        self.first_s, self.samples = collections.defaultdict(list), []

    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    async def run(self):
        watch = asyncio.create_task(self.watch())
        await asyncio.gather(*(self.client(idx) for idx in range(self.clients)))
        watch.cancel()

    async def client(self, idx: int):
        mix = Mix(idx)
        while self.elapsed() < self.seconds:
            kind, path, body, right, cut_after = mix.draw()
            outcome = await request(self.server.port, path, body, cut_after=cut_after)
            self.note(kind, outcome, right)
            mix.last_response = outcome.response_id or mix.last_response
            if outcome.status == 429:
                await asyncio.sleep(mix.rng.uniform(0.2, 1.0))

    def note(self, kind: str, outcome: Outcome, right: set[int]):
        self.statuses[kind, outcome.status] += 1
        if outcome.status not in right | {429} or (outcome.status == 200 and (outcome.error or not outcome.is_whole)):
            self.faults.append({"at_s": self.elapsed(), "kind": kind, "status": outcome.status, "error": outcome.error, "whole": outcome.is_whole})
        if outcome.first_s:
            self.first_s[kind].append(outcome.first_s)

    async def watch(self):
        while True:
            self.samples.append(await asyncio.to_thread(self.sample))
            await asyncio.sleep(EVERY_S)

    def sample(self) -> dict:
        loads = self.server.loads()
        in_order = loads["num_blocks_free"] + loads["num_blocks_used"] + loads["num_blocks_cached"] == loads["num_blocks_total"]
        if not in_order or loads["num_failed_total"] or loads["num_rebuilds_total"]:
            self.faults.append({"at_s": self.elapsed(), "loads": loads})
        return {
            "at_s": self.elapsed(),
            "rss_bytes": self.server.rss_bytes(),
            "descriptors": self.server.num_descriptors(),
            "store_bytes": sum(path.stat().st_size for path in self.server.dir.glob("store.sqlite*")),
            **{name: loads[name] for name in ("num_running", "num_waiting", "num_blocks_used", "num_generation_tokens_total")},
        }

    def slope_kib_per_minute(self) -> float:
        """Of the resident set after the warm-up, by least squares."""
        points = [(s["at_s"] / 60, s["rss_bytes"] / 1024) for s in self.samples if s["at_s"] > self.seconds * WARM_UP_SHARE]
        mean_x, mean_y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else float("nan")

    def report(self, end: dict) -> str:
        total, refused = sum(self.statuses.values()), sum(count for (_, status), count in self.statuses.items() if status == 429)
        every = sorted(value for values in self.first_s.values() for value in values)
        rss = [sample["rss_bytes"] / (1 << 20) for sample in self.samples]
        warm = [s["rss_bytes"] / (1 << 20) for s in self.samples if s["at_s"] > self.seconds * WARM_UP_SHARE]
        lines = [
            f"{self.seconds / 60:.0f} minutes, {self.clients} clients: {total} requests, {refused} of them refused with 429 as intended, {len(self.faults)} faults",
            f"tokens generated: {end['num_generation_tokens_total']}; blocks held at the end: {end['num_blocks_used']}",
            f"resident set: {rss[0]:.0f} MiB at first, {warm[0]:.0f} after the warm-up, {rss[-1]:.0f} at the end, most {max(rss):.0f}; "
            f"slope after the warm-up {self.slope_kib_per_minute():+.1f} KiB per minute",
            f"descriptors: most {max(s['descriptors'] for s in self.samples)}, at the end {end['descriptors']}; store file at most {max(s['store_bytes'] for s in self.samples) >> 20} MiB",
            f"first token, all streams: p50 {percentile(every, 50):.2f} s, p99 {percentile(every, 99):.2f} s, most {every[-1]:.2f} s" if every else "no stream",
            "", "| kind | requests by status | first token p50 s | p99 s |", "|---|---|---|---|",
        ]
        for kind in sorted({kind for kind, _ in self.statuses}):
            by_status = ", ".join(f"{status}: {count}" for (name, status), count in sorted(self.statuses.items()) if name == kind)
            first = self.first_s.get(kind)
            lines.append(f"| {kind} | {by_status} | {percentile(first, 50):.2f} | {percentile(first, 99):.2f} |" if first else f"| {kind} | {by_status} | | |")
        return "\n".join([*lines, *(f"FAULT {fault}" for fault in self.faults[:20])])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--ossia", default=None, help="the program [default: target/debug/ossia]")
    parser.add_argument("--out", type=pathlib.Path, help="where samples and counts are written, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        dir = pathlib.Path(name)
        limits = ["--max-num-seqs", "32", "--max-queue-len", "24", "--kv-cache-memory", "64MiB", "--store-size", "16MiB"]
        server = Server(dir, *limits, model="demo", store=f"sqlite:{dir / 'store.sqlite'}", program=args.ossia or str(ROOT / "target/debug/ossia"))
        soak = Soak(server, args.clients, args.minutes * 60)
        try:
            asyncio.run(soak.run())
            server.wait_until_idle()
            end = soak.sample()
            print(soak.report(end))
            if server.stop() != 0 or "panicked" in server.log or " ERROR " in server.log:
                soak.faults.append({"log": [line for line in server.log.splitlines() if "ERROR" in line or "panicked" in line][:20]})
                print(f"FAULT {soak.faults[-1]}")
        finally:
            server.kill()
    if args.out:
        counts = {f"{kind} {status}": count for (kind, status), count in soak.statuses.items()}
        args.out.write_text(json.dumps({"samples": soak.samples, "statuses": counts, "faults": soak.faults}))
    return 1 if soak.faults or end["num_blocks_used"] else 0


if __name__ == "__main__":
    sys.exit(main())
