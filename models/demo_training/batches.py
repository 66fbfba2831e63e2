"""Packs groups into rows of one length, with masks that keep groups and exchanges apart."""

import random
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from . import mixture
from .lexicon import Lexicon
from .model import NOWHERE

IGNORED = -100
POOL = 96
LETTERS = re.compile("[A-Za-z]{1,4}")


@dataclass
class Batch:
    """Model inputs [rows, tokens], masks [rows, 1, tokens, tokens], trained positions (flat) and their targets."""

    ids: Tensor
    positions: Tensor
    full: Tensor
    sliding: Tensor
    wanted: Tensor
    targets: Tensor


@dataclass
class Tokens:
    """A group as tokens; branch 0 is the context, branch i its i-th exchange; `trained` marks what is learned."""

    ids: list[int]
    positions: list[int]
    branches: list[int]
    trained: list[bool]


def tokenize(tokenizer: Tokenizer, group: mixture.Group, longest: int) -> Tokens:
    """The tokens of a group, less the last exchanges if it would be longer than `longest`."""
    context = tokenizer.encode(group.context.text(), add_special_tokens=False).ids
    out = Tokens(list(context), list(range(len(context))), [0] * len(context), [False] * len(context))
    for branch, exchange in enumerate(group.exchanges, 1):
        ids, trained = [], []
        for text, learned in exchange.segments:
            piece = tokenizer.encode(text, add_special_tokens=False).ids
            ids += piece
            trained += [learned] * len(piece)
        if len(out.ids) + len(ids) > longest:
            continue
        out.ids += ids
        out.trained += trained
        out.positions += range(len(context), len(context) + len(ids))
        out.branches += [branch] * len(ids)
    return out


class Packer:
    """An endless source of batches. `state` and `restore` make training resumable."""

    def __init__(self, tokenizer: Tokenizer, rows: int, length: int, window: int, seed: int):
        self.tokenizer, self.rows, self.length, self.window = tokenizer, rows, length, window
        pieces = sorted(token for token in tokenizer.get_vocab() if LETTERS.fullmatch(token))
        self.rng, self.lexicon, self.pool = random.Random(seed), Lexicon(pieces=pieces), []

    def batch(self) -> Batch:
        """The next batch."""
        rows = [self._row() for _ in range(self.rows)]
        ids, positions, groups, branches, trained = (torch.tensor(column) for column in zip(*rows))
        same = (groups[:, :, None] == groups[:, None, :]) & (groups[:, :, None] >= 0)
        seen = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
        distance = positions[:, :, None] - positions[:, None, :]
        visible = same & seen & (distance >= 0) | torch.eye(self.length, dtype=torch.bool)
        mask = torch.zeros(visible.shape).masked_fill(~visible, NOWHERE)
        near = mask.masked_fill(distance >= self.window, NOWHERE)
        targets = torch.full_like(ids, IGNORED)
        targets[:, :-1] = torch.where(trained[:, 1:], ids[:, 1:], IGNORED)
        wanted = self._fixed_number((targets.flatten() != IGNORED).nonzero()[:, 0])
        return Batch(ids, positions, mask[:, None], near[:, None], wanted, targets.flatten()[wanted])

    def _fixed_number(self, wanted: Tensor) -> Tensor:
        """Four sevenths of all positions, whatever is trained: fixed shapes keep memory from fragmenting.

        A surplus is dropped; what is missing is filled with the last position, which is never trained.
        """
        number = self.rows * self.length * 4 // 7
        surplus = torch.randperm(len(wanted))[:number].sort().values
        return F.pad(wanted[surplus], (0, number - len(surplus)), value=self.rows * self.length - 1)

    def _row(self) -> list[list]:
        ids, positions, groups, branches, trained = [], [], [], [], []
        while (group := self._fitting(self.length - len(ids))) is not None:
            number = groups[-1] + 1 if groups else 0
            ids += group.ids
            positions += group.positions
            groups += [number] * len(group.ids)
            branches += group.branches
            trained += group.trained
        rest = self.length - len(ids)
        return [ids + [0] * rest, positions + [0] * rest, groups + [-1] * rest, branches + [0] * rest, trained + [False] * rest]

    def _fitting(self, room: int) -> Tokens | None:
        while len(self.pool) < POOL:
            self.pool.append(tokenize(self.tokenizer, mixture.draw(self.rng, self.lexicon), self.length))
        if room == self.length:
            return self.pool.pop(0)
        best = max((i for i, group in enumerate(self.pool) if len(group.ids) <= room), key=lambda i: len(self.pool[i].ids), default=None)
        return None if best is None else self.pool.pop(best)

    def state(self) -> tuple:
        """The random state; the pool is drawn anew."""
        return self.rng.getstate()

    def restore(self, state: tuple) -> None:
        """Continues from a kept random state."""
        self.rng.setstate(state)
