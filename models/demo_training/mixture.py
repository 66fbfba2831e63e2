"""Draws groups: one context and several exchanges that share it, which saves repeating the context."""

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
    return plain_group(rng, lexicon, effort) if kind < 0.4 else tool_group(rng, lexicon, effort)


def plain_group(rng: random.Random, lexicon: Lexicon, effort: str | None = None) -> Group:
    """Exchanges without functions."""
    context = _context(rng, effort, 0.2)
    return Group(context, [_with_past(rng, lexicon, tasks.plain(rng, lexicon, context.effort)) for _ in range(4)])


def tool_group(rng: random.Random, lexicon: Lexicon, effort: str | None = None) -> Group:
    """One to three declared functions; calls, results, and now and then something that needs no function."""
    context = _context(rng, effort, 0.25)
    requests = tools.requests(rng, lexicon, rng.choice([1, 1, 1, 2, 2, 3]))
    context.tools = [wanted.tool for wanted in requests]
    rng.shuffle(context.tools)
    is_plain = len(requests) == 1 and requests[0].is_familiar()
    exchanges = [tasks.function_call(context.effort, wanted, is_plain) for wanted in requests[:2]]
    if rng.random() < 0.6:
        exchanges.append(tasks.tool_answer(rng, lexicon, context.effort, rng.choice(requests)))
    if rng.random() < 0.3:
        exchanges.append(tasks.without_function(rng, lexicon, context.effort))
    return Group(context, [_with_past(rng, lexicon, exchange, 0.08) for exchange in exchanges])


def _context(rng: random.Random, effort: str | None, instructed: float) -> Context:
    date = f"20{rng.randint(24, 27)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    instructions = rng.choice(INSTRUCTIONS) if rng.random() < instructed else ""
    return Context(effort or rng.choice(EFFORTS), date if rng.random() < 0.95 else "", instructions, commentary=rng.random() < 0.5)


def _with_past(rng: random.Random, lexicon: Lexicon, exchange: Exchange, share: float = 0.15) -> Exchange:
    if rng.random() < share:
        for _ in range(rng.choice([1, 1, 2])):
            exchange.segments = tasks.turn(rng, lexicon) + exchange.segments
    return exchange
