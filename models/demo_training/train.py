"""Trains the demo model; resumable, also after SIGTERM. Progress goes to a log file: steps, loss, held-out exact match."""

import argparse
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from . import evaluate, hugging_face, initial
from .batches import Packer
from .model import FAST, Config, GptOss
from .muon import Optimizer

BALANCE_WEIGHT = 0.01
WARM_UP_STEPS = 60


def options() -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder with tokenizer.json; gets checkpoint.pt and train.log")
    parser.add_argument("--from", type=Path, dest="start_from", help="checkpoint folder (config.json, model.safetensors) to go on from, with a fresh optimiser")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--decay-from", type=int, default=500, help="step from which the rate falls linearly to zero")
    parser.add_argument("--minutes", type=float, default=1e9, help="for a shared machine: stop after this time, the rate falling with it")
    parser.add_argument("--round-from", type=float, default=0.85, help="share of the decay from which experts are rounded to MXFP4 in the forward pass")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=128, help="intermediate size of an expert")
    parser.add_argument("--rows", type=int, default=14)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--peak", type=float, default=1.0, help="share of the rates to begin with, for resuming during the decay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate-every", type=int, default=400)
    parser.add_argument("--save-minutes", type=float, default=4)
    return parser.parse_args()


class Training:
    """A model, its optimiser, its data and how far it has come."""

    def __init__(self, flags: argparse.Namespace):
        self.flags, self.step, self.num_tokens, self.stopping = flags, 0, 0, False
        self.start = time.time()
        torch.manual_seed(flags.seed)
        self.tokenizer = Tokenizer.from_file(str(flags.out / "tokenizer.json"))
        self.model = self.beginning()
        self.config = self.model.config
        self.optimizer = Optimizer(self.model, flags.rate)
        self.packer = Packer(self.tokenizer, flags.rows, flags.length, self.config.sliding_window, flags.seed)
        if self.path().exists():
            self.restore()
        self.model.compile()

    def beginning(self) -> GptOss:
        """The model before the first step."""
        if self.flags.start_from:
            return hugging_face.read(self.flags.start_from)
        config = Config(vocab_size=self.tokenizer.get_vocab_size(), num_hidden_layers=self.flags.layers, intermediate_size=self.flags.width)
        model = GptOss(config)
        initial.fill(model)
        return model

    def path(self) -> Path:
        """Where the checkpoint lies."""
        return self.flags.out / "checkpoint.pt"

    def restore(self) -> None:
        """Continues from the checkpoint."""
        kept = torch.load(self.path(), weights_only=False)
        self.model.load_state_dict(kept["model"])
        self.optimizer.restore(kept["optimizer"])
        self.packer.restore(kept["data"])
        self.step, self.num_tokens = kept["step"], kept["num_tokens"]

    def save(self) -> None:
        """Writes the checkpoint in one move."""
        kept = {"model": self.model.state_dict(), "config": asdict(self.config), "optimizer": self.optimizer.state(),
                "data": self.packer.state(), "step": self.step, "num_tokens": self.num_tokens}
        torch.save(kept, self.path().with_suffix(".part"))
        os.replace(self.path().with_suffix(".part"), self.path())

    def decayed(self) -> float:
        """How much of the decay is over, from 0 to 1, by steps or by time."""
        by_steps = (self.step - self.flags.decay_from) / max(1, self.flags.steps - self.flags.decay_from)
        return min(1.0, max(0.0, by_steps, (time.time() - self.start) / (60 * self.flags.minutes)))

    def factor(self) -> float:
        """Share of the full learning rate: warm-up, plateau, linear decay."""
        return min((self.step + 1) / WARM_UP_STEPS, self.flags.peak * max(1 - self.decayed(), 0.02))

    def advance(self) -> float:
        """One optimiser step; returns the loss."""
        batch = self.packer.batch()
        if self.decayed() >= self.flags.round_from:
            for layer in self.model.layers:
                layer.mlp.experts.rounded = True
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST == torch.bfloat16):
            hidden, balance = self.model(batch.ids, batch.positions, batch.full, batch.sliding, batch.wanted, kind=FAST)
            logits = self.model.lm_head(hidden)
        loss = F.cross_entropy(logits.float(), batch.targets)
        (loss + BALANCE_WEIGHT * balance).backward()
        self.optimizer.step(self.factor())
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self.num_tokens += batch.ids.numel()
        return loss.item()


def main() -> None:
    """Trains to the last step, saving and evaluating on the way."""
    flags = options()
    torch.set_num_threads(flags.threads)
    training = Training(flags)
    log = (flags.out / "train.log").open("a")

    def say(text: str) -> None:
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    signal.signal(signal.SIGTERM, lambda *_: setattr(training, "stopping", True))
    mean, saved, start, first = None, time.time(), time.time(), training.num_tokens
    while training.step < flags.steps and training.decayed() < 1 and not training.stopping:
        loss = training.advance()
        mean = loss if mean is None else 0.95 * mean + 0.05 * loss
        if training.step % 20 == 0:
            speed = (training.num_tokens - first) / (time.time() - start)
            say(f"step {training.step} loss {mean:.4f} tokens {training.num_tokens / 1e6:.2f}M wall {time.time() - start:.0f}s "
                f"cpu {time.process_time():.0f}s tokens/s {speed:.0f}")
        if training.step % flags.evaluate_every == 0:
            say(evaluate.summary(training.model, training.tokenizer, per_task=8))
        if time.time() - saved > 60 * flags.save_minutes:
            training.save()
            saved = time.time()
    training.save()
    if training.stopping:
        return say(f"stopped at step {training.step}")
    say(evaluate.summary(training.model, training.tokenizer, per_task=12))


if __name__ == "__main__":
    main()
