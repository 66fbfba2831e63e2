"""Makes the golden logits that crates/ossia-model/tests/parity.rs compares with.

    python -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt
    .venv/bin/python tests/parity/make_goldens.py            # from the repository's root; all cases of cases.json
    .venv/bin/python tests/parity/make_goldens.py demo       # or some of them

Random checkpoints are written by `cargo run -p xtask-assets -- random-checkpoint` into a temporary folder; they are the weights
that the test makes in memory. A golden holds, per prompt, the ids, and at some positions the most likely
token, and the logits of some columns; and the largest |logit| of all positions.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from reference_logits import load_model, logits

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LENGTHS = [1, 17, 129, 300, 5000]
NUM_POSITIONS = 32
NUM_COLUMNS = 64


def spread(count, total):
    """Up to `count` different numbers from 0 to `total - 1`, first and last included."""
    return torch.linspace(0, total - 1, min(count, total)).round().to(torch.int32)


def sample(model, length):
    vocab_size = model.config.vocab_size
    chooser = random.Random(length)
    ids = [chooser.randrange(vocab_size) for _ in range(length)]
    rows = logits(model, ids)
    positions, columns = spread(NUM_POSITIONS, length), spread(NUM_COLUMNS, vocab_size)
    chosen = rows[positions.long()]
    # How far the most likely token is ahead: where it is less than the tolerance, either may win.
    best = chosen.topk(2).values
    return {
        f"{length}.ids": torch.tensor(ids, dtype=torch.int32),
        f"{length}.positions": positions,
        f"{length}.columns": columns,
        f"{length}.logits": chosen[:, columns.long()].contiguous(),
        f"{length}.argmax": chosen.argmax(-1).to(torch.int32),
        f"{length}.lead": (best[:, 0] - best[:, 1]).contiguous(),
        f"{length}.max_abs": rows.abs().max().reshape(1),
    }


def make(case):
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = folder
        if "checkpoint" in case:
            checkpoint = ROOT / case["checkpoint"]
        else:
            command = ["cargo", "run", "-p", "xtask-assets", "--", "random-checkpoint"]
            command += ["--hf-config", HERE / case["config"]]
            subprocess.run([*command, "--seed", str(case["seed"]), folder], check=True, cwd=ROOT)
        model = load_model(checkpoint)
        digest = hashlib.sha256(Path(checkpoint, "model.safetensors").read_bytes()).digest()
    # Which weights these are the logits of.
    tensors = {"sha256": torch.tensor(list(digest), dtype=torch.uint8)}
    for length in LENGTHS:
        tensors |= sample(model, length)
    save_file(tensors, HERE / "goldens" / f"{case['name']}.safetensors")


def main():
    with open(HERE / "cases.json", encoding="utf-8") as file:
        cases = json.load(file)
    wanted = sys.argv[1:] or [case["name"] for case in cases]
    for case in cases:
        if case["name"] in wanted:
            print(case["name"], flush=True)
            make(case)


if __name__ == "__main__":
    main()
