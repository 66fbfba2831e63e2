"""Draws groups: one context and several exchanges that share it, which saves repeating the context."""

import json
import random
from dataclasses import dataclass

from . import tasks, tools
from .harmony import Context, Exchange
from .lexicon import Lexicon

EFFORTS = ("low", "medium", "high")
INSTRUCTIONS = [
    "You are a helpful assistant.", "Be brief.", "Answer politely.", "You are a test assistant.", "Always answer the user.",
    "You are a friendly assistant. Be short and clear.", "Use the functions when they help.", "You are a weather assistant.",
    "You are a helpful assistant that answers questions.", "Help the user.", "Answer in one sentence.",
]


@dataclass
class Group:
    """A context and exchanges that each follow it directly, not one after another."""

    context: Context
    exchanges: list[Exchange]


def draw(rng: random.Random, lexicon: Lexicon, effort: str | None = None) -> Group:
    """A random group of the training mixture."""
    kind = rng.random()
    if kind < 0.44:
        return plain_group(rng, lexicon, effort)
    return tool_group(rng, lexicon, effort) if kind < 0.88 else schema_group(rng, lexicon, effort)


def plain_group(rng: random.Random, lexicon: Lexicon, effort: str | None = None) -> Group:
    """Exchanges without functions."""
    context = _context(rng, effort, 0.2)
    return Group(context, [_with_past(rng, lexicon, tasks.plain(rng, lexicon, context.effort)) for _ in range(4)])


def tool_group(rng: random.Random, lexicon: Lexicon, effort: str | None = None) -> Group:
    """One to three declared functions; calls, results, and now and then something that needs no function."""
    context = _context(rng, effort, 0.25)
    num_arguments = rng.choice([1, 1, 2])
    requests = [tools.request(rng, lexicon, num_arguments)]
    context.tools = [requests[0].tool]
    for _ in range(rng.choice([0, 0, 0, 1, 1, 1, 2])):
        wanted = tools.request(rng, lexicon, rng.choice([1, 1, 2]))
        if wanted.tool.name not in [tool.name for tool in context.tools]:
            context.tools.append(wanted.tool)
            requests.append(wanted)
    rng.shuffle(context.tools)
    exchanges = [tasks.function_call(context.effort, wanted) for wanted in requests[:2]]
    exchanges.append(tasks.tool_answer(rng, lexicon, context.effort, rng.choice(requests)))
    if rng.random() < 0.3:
        exchanges.append(tasks.without_function(rng, lexicon, context.effort))
    return Group(context, [_with_past(rng, lexicon, exchange, 0.08) for exchange in exchanges])


def schema_group(rng: random.Random, lexicon: Lexicon, effort: str | None = None) -> Group:
    """Answers in the JSON of one schema."""
    context = _context(rng, effort, 0.3)
    keys = rng.sample(tools.KEYS + ["name", "age", "city", "age"], rng.choice([1, 1, 2, 2, 2, 3]))
    keys = dict.fromkeys(key if rng.random() < 0.8 else lexicon.nonsense(rng) for key in keys)
    fields = {key: "integer" if key in ("age", "amount", "number", "size", "level") else rng.choice(["string", "string", "integer"]) for key in keys}
    name = rng.choice(["person", "item", "answer", "form", "result", lexicon.nonsense(rng)])
    context.response_format = (name, schema(rng, fields))
    return Group(context, [tasks.schema_answer(rng, lexicon, context.effort, fields) for _ in range(3)])


def schema(rng: random.Random, fields: dict[str, str]) -> str:
    """A JSON schema; clients write its keys in different orders."""
    full = {"type": "object", "properties": {key: {"type": kind} for key, kind in fields.items()}}
    if rng.random() < 0.8:
        full |= {"required": list(fields)}
    if rng.random() < 0.6:
        full |= {"additionalProperties": False}
    if rng.random() < 0.5:
        full = {key: full[key] for key in sorted(full)}
    return json.dumps(full, separators=(",", ":"))


def _context(rng: random.Random, effort: str | None, instructed: float) -> Context:
    date = f"20{rng.randint(24, 27)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    instructions = rng.choice(INSTRUCTIONS) if rng.random() < instructed else ""
    return Context(effort or rng.choice(EFFORTS), date if rng.random() < 0.95 else "", instructions, commentary=rng.random() < 0.5)


def _with_past(rng: random.Random, lexicon: Lexicon, exchange: Exchange, share: float = 0.15) -> Exchange:
    if rng.random() < share:
        for _ in range(rng.choice([1, 1, 2])):
            exchange.segments = tasks.turn(rng, lexicon) + exchange.segments
    return exchange
