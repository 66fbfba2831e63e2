"""Measures exact answers and well-formed harmony on held-out prompts, greedily decoded.

Held-out means: other random seed, other words, names, cities and nonsense words, other pairs of numbers.
"""

import argparse
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from . import mixture
from .harmony import Exchange
from .lexicon import Lexicon

SEED = 20260
TASKS = ["small talk", "addition", "repetition", "capital", "unknown", "memory", "function call", "unfamiliar function", "tool answer"]
CALLS = TASKS[6:8]
TURN = re.compile(
    r"<\|channel\|>analysis<\|message\|>(?P<analysis>[^|]*?)<\|end\|><\|start\|>assistant<\|channel\|>"
    r"(?:final|commentary to=(?P<recipient>functions\.\w+) <\|constrain\|>json)<\|message\|>(?P<body>.*)<\|(?P<stop>return|call)\|>", re.S)


@dataclass
class Case:
    """A held-out prompt with its expected answer."""

    task: str
    effort: str
    prompt: str
    answer: tuple[str, str]


@dataclass
class Score:
    """Counts of one task."""

    num_cases: int = 0
    num_well_formed: int = 0
    num_exact: int = 0
    num_copied: int = 0  # calls with the right argument, whatever it was called and whichever function was chosen
    failures: list = field(default_factory=list)


def cases(per_task: int, seed: int = SEED, tasks: list[str] = TASKS) -> list[Case]:
    """The same number of prompts for each task, efforts in turn."""
    rng, lexicon, found = random.Random(seed), Lexicon(held_out=True), defaultdict(list)
    efforts = {task: 0 for task in tasks}
    while any(len(found[task]) < per_task for task in tasks):
        effort = rng.choice(mixture.EFFORTS)
        group = mixture.draw(rng, lexicon, effort)
        for exchange in group.exchanges:
            if exchange.task in efforts and len(found[exchange.task]) < per_task:
                found[exchange.task].append(_case(group, exchange, effort))
    return [case for task in tasks for case in found[task]]


def _case(group: mixture.Group, exchange: Exchange, effort: str) -> Case:
    return Case(exchange.task, effort, group.context.text() + exchange.prompt(), exchange.answer)


def parse(text: str) -> tuple[str, tuple[str, str]] | None:
    """Analysis and answer of a well-formed turn: analysis, then a final message or a call with JSON arguments."""
    turn = TURN.fullmatch(text)
    if not turn or "<|" in turn["body"] or (turn["stop"] == "call") != bool(turn["recipient"]):
        return None
    if turn["recipient"]:
        try:
            json.loads(turn["body"])
        except ValueError:
            return None
    return turn["analysis"], (turn["recipient"] or "final", turn["body"])


def score(all_cases: list[Case], texts: list[str]) -> tuple[dict[str, Score], dict[str, list[int]]]:
    """Scores by task, and lengths of the reasoning in characters by effort."""
    scores, lengths = defaultdict(Score), defaultdict(list)
    for case, text in zip(all_cases, texts):
        entry, turn = scores[case.task], parse(text)
        entry.num_cases += 1
        entry.num_well_formed += turn is not None
        entry.num_exact += turn is not None and turn[1] == case.answer
        entry.num_copied += turn is not None and _values(turn[1]) == _values(case.answer) != []
        if turn:
            lengths[case.effort].append(len(turn[0]))
        if not turn or turn[1] != case.answer:
            entry.failures.append((case, text))
    return scores, lengths


def _values(answer: tuple[str, str]) -> list:
    """The arguments of a call without their names; nothing for a final message."""
    arguments = None if answer[0] == "final" else json.loads(answer[1])
    return list(arguments.values()) if isinstance(arguments, dict) else []


def summary(model, tokenizer, per_task: int) -> str:
    """One line of scores, for the training log."""
    from . import decode

    all_cases = cases(per_task)
    scores, lengths = score(all_cases, decode.complete(model, tokenizer, [case.prompt for case in all_cases]))
    exact = sum(entry.num_exact for entry in scores.values()) / len(all_cases)
    formed = sum(entry.num_well_formed for entry in scores.values()) / len(all_cases)
    parts = ", ".join(f"{task} {entry.num_exact}/{entry.num_cases}" for task, entry in scores.items())
    return f"held-out exact {exact:.1%} well-formed {formed:.1%} | {parts}"


def table(scores: dict[str, Score], lengths: dict[str, list[int]]) -> str:
    """A Markdown table of the scores."""
    lines = ["| task | prompts | well-formed | exact |", "|---|---|---|---|"]
    for task, entry in scores.items():
        n = entry.num_cases
        lines.append(f"| {task} | {n} | {entry.num_well_formed / n:.1%} | {entry.num_exact / n:.1%} |")
    total = [sum(getattr(entry, name) for entry in scores.values()) for name in ("num_cases", "num_well_formed", "num_exact")]
    lines.append(f"| **all** | {total[0]} | {total[1] / total[0]:.1%} | {total[2] / total[0]:.1%} |")
    means = ", ".join(f"{effort} {sum(lengths[effort]) / max(1, len(lengths[effort])):.0f}" for effort in mixture.EFFORTS)
    calls = ", ".join(f"{task} {scores[task].num_copied / scores[task].num_cases:.1%}" for task in CALLS if task in scores)
    return "\n".join(lines) + f"\n\nRight argument in the call: {calls}. Mean length of the reasoning in characters: {means}."


def main() -> None:
    """Scores an exported checkpoint with transformers, or what a server makes of it, and keeps what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--model", type=Path, help="folder of a checkpoint, for transformers in f32")
    judged.add_argument("--base-url", help="a server of the checkpoint, as http://127.0.0.1:8000/v1")
    parser.add_argument("--per-task", type=int, default=40)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--failures", type=Path)
    options = parser.parse_args()
    all_cases = cases(options.per_task, options.seed)
    scores, lengths = score(all_cases, _complete(options, [case.prompt for case in all_cases]))
    print(table(scores, lengths))
    if options.failures:
        shown = [[case.task, case.prompt, case.answer, text] for entry in scores.values() for case, text in entry.failures]
        options.failures.write_text(json.dumps(shown, indent=1, ensure_ascii=False))


def _complete(options: argparse.Namespace, prompts: list[str]) -> list[str]:
    if options.base_url:
        from . import served

        return served.complete(options.base_url, prompts)
    from . import reference

    return reference.complete(options.model, prompts)


if __name__ == "__main__":
    main()
