"""Greedy decoding with the torch model: batched, cached, left-padded."""

import torch
from tokenizers import Tokenizer

from .harmony import STOP_TOKENS
from .model import NOWHERE, GptOss


@torch.no_grad()
def greedy(model: GptOss, prompts: list[list[int]], stop_ids: set[int], max_new_tokens: int) -> list[list[int]]:
    """The continuation of each prompt up to and including its stop token."""
    size, longest = len(prompts), max(map(len, prompts))
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    caches = [{} for _ in model.layers]
    outputs, alive, past = [[] for _ in prompts], set(range(size)), 0
    for _ in range(max_new_tokens):
        slots = torch.arange(past, past + ids.shape[1])
        positions = (slots[None] - padding[:, None]).clamp(min=0)
        full, sliding = _masks(model, slots, padding)
        hidden, _ = model(ids, positions, full, sliding, caches=caches)
        past += ids.shape[1]
        ids = model.lm_head(hidden[:, -1:]).argmax(-1)
        for i in list(alive):
            outputs[i].append(int(ids[i, 0]))
            if outputs[i][-1] in stop_ids:
                alive.discard(i)
        if not alive:
            break
    return outputs


def _masks(model: GptOss, slots: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    keys = torch.arange(int(slots[-1]) + 1)
    distance = (slots[:, None] - keys[None])[None]
    hidden = (distance < 0) | (keys[None, None] < padding[:, None, None]) & (distance != 0)
    full = torch.zeros(hidden.shape).masked_fill(hidden, NOWHERE)
    return full[:, None], full.masked_fill(distance >= model.config.sliding_window, NOWHERE)[:, None]


def complete(model: GptOss, tokenizer: Tokenizer, prompts: list[str], max_new_tokens: int = 160, batch_size: int = 64) -> list[str]:
    """Completions as text, special tokens included, in the order of the prompts."""
    encoded = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    stop_ids = {tokenizer.token_to_id(text) for text in STOP_TOKENS}
    for layer in model.layers:  # rounding at every step would cost more than the step
        layer.mlp.experts.kept = [weight.detach() for weight in layer.mlp.experts.weights()]
    order, texts = sorted(range(len(encoded)), key=lambda i: len(encoded[i])), [""] * len(encoded)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        for i, ids in zip(part, greedy(model, [encoded[i] for i in part], stop_ids, max_new_tokens)):
            texts[i] = tokenizer.decode(ids, skip_special_tokens=False)
    for layer in model.layers:
        layer.mlp.experts.kept = None
    return texts
