"""Many streams at once: a client on asyncio that speaks plain HTTP and notes when what came."""

import asyncio
import dataclasses
import json
import re
import time

RESPONSE_ID = re.compile(rb"resp_[0-9a-zA-Z]+")


@dataclasses.dataclass
class Outcome:
    """What one request saw; times in seconds since it was sent."""

    status: int = 0
    head_s: float = 0.0
    first_s: float = 0.0
    end_s: float = 0.0
    num_events: int = 0
    is_whole: bool = False
    error: str = ""
    response_id: str = ""
    headers: dict = dataclasses.field(default_factory=dict)


async def request(port: int, path: str, body: dict, opened: asyncio.Event | None = None, cut_after: int | None = None) -> Outcome:
    """Sends a request and follows its answer to the end, or hangs up after so many events."""
    outcome = Outcome()
    begun = time.perf_counter()
    reader = writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await follow(reader, outcome, begun, opened, cut_after)
    except (OSError, asyncio.IncompleteReadError) as error:
        outcome.error = outcome.error or f"{type(error).__name__}: {error}"
    finally:
        outcome.end_s = time.perf_counter() - begun
        if writer is not None:
            writer.close()
    return outcome


async def follow(reader, outcome: Outcome, begun: float, opened, cut_after):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    outcome.head_s = time.perf_counter() - begun
    outcome.status = int(head.split(" ")[1])
    outcome.headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if opened is not None:
        opened.set()
    if "text/event-stream" not in outcome.headers.get("content-type", ""):
        body = await reader.read()
        outcome.is_whole = len(body) == int(outcome.headers.get("content-length", -1))
        if found := RESPONSE_ID.search(body):
            outcome.response_id = found.group(0).decode()
        if b'"status":"failed"' in body or b'"server_error"' in body:
            outcome.error = body[:300].decode(errors="replace")
        return
    async for line in reader:
        if line.startswith(b"data: "):
            await event(line, outcome, begun)
            if cut_after is not None and outcome.num_events >= cut_after:
                outcome.is_whole = True
                return


async def event(line: bytes, outcome: Outcome, begun: float):
    outcome.num_events += 1
    if line.startswith(b"data: [DONE]"):
        outcome.is_whole = True
    elif b'"error":{' in line or b'"type":"error"' in line or b'"response.failed"' in line:
        outcome.error = line[:300].decode(errors="replace")
    if b'"content":"' in line or b'"delta":"' in line or b'"reasoning' in line:
        outcome.first_s = outcome.first_s or time.perf_counter() - begun


def percentile(values: list[float], percent: float) -> float:
    """Of the sorted values, that below which so many percent lie."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else float("nan")
