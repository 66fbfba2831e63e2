"""Muon for matrices (momentum, orthogonalised), AdamW for the rest."""

import math
from collections import defaultdict

import torch
from torch import Tensor

from .model import FAST

ADAM_RATES = {"embed": 0.006}
ADAM_RATE = 0.003


def orthogonalised(gradients: Tensor) -> Tensor:
    """Five Newton-Schulz steps on a stack of matrices."""
    x = gradients.to(FAST)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2).contiguous()
    x = x / (x.float().flatten(-2).norm(dim=-1)[..., None, None].to(FAST) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.transpose(-1, -2) if tall else x).float()


class Optimizer:
    """Both optimisers behind one `step`; the rates follow one schedule factor."""

    def __init__(self, model, rate: float):
        self.rate, self.matrices, others = rate, [], {}
        for name, weight in model.named_parameters():
            if name.startswith("layers") and weight.dim() >= 2 and not name.endswith("bias") and "router" not in name:
                self.matrices.append(weight)
            else:
                own = next((value for start, value in ADAM_RATES.items() if name.startswith(start)), ADAM_RATE)
                others.setdefault(own, []).append(weight)
        self.momenta = [torch.zeros_like(weight) for weight in self.matrices]
        self.adam = torch.optim.AdamW([dict(params=ps, lr=own) for own, ps in others.items()], betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0, foreach=True)
        self.adam_rates = [group["lr"] for group in self.adam.param_groups]

    def step(self, factor: float) -> None:
        """One step with all rates times `factor`."""
        torch.nn.utils.clip_grad_norm_([p for group in self.adam.param_groups for p in group["params"]], 1.0)
        for group, rate in zip(self.adam.param_groups, self.adam_rates):
            group["lr"] = rate * factor
        self.adam.step()
        self._muon(self.rate * factor)

    @torch.no_grad()
    def _muon(self, rate: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        shapes = defaultdict(list)
        for weight, buffer in zip(self.matrices, self.momenta):
            buffer.lerp_(weight.grad, 1 - momentum)
            shapes[weight.shape].append((weight, weight.grad.lerp(buffer, momentum)))
        for shape, members in shapes.items():
            updates = orthogonalised(torch.stack([update for _, update in members]))
            size = 0.2 * math.sqrt(max(shape[-2:]))
            for (weight, _), update in zip(members, updates):
                weight.mul_(1 - rate * decay).add_(update, alpha=-rate * size)

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {"adam": self.adam.state_dict(), "momenta": self.momenta}

    def restore(self, state: dict) -> None:
        """Puts a kept state back."""
        self.adam.load_state_dict(state["adam"])
        for buffer, kept in zip(self.momenta, state["momenta"]):
            buffer.copy_(kept)
