"""Greedy decoding of an exported checkpoint with transformers, in f32: the judge of what was exported."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from .harmony import STOP_TOKENS

BATCH_SIZE = 44


def load(folder: Path):
    """transformers' model; MXFP4 is unpacked exactly, computation is f32."""
    from transformers import GptOssForCausalLM

    return GptOssForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def complete(folder: Path, prompts: list[str], max_new_tokens: int = 160) -> list[str]:
    """Completions as text, special tokens included, in the order of the prompts."""
    model, tokenizer = load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    stops = [tokenizer.token_to_id(text) for text in STOP_TOKENS]
    order, texts = sorted(range(len(encoded)), key=lambda i: len(encoded[i])), [""] * len(encoded)
    for start in range(0, len(order), BATCH_SIZE):
        part = order[start : start + BATCH_SIZE]
        for i, ids in zip(part, _generate(model, [encoded[i] for i in part], stops, max_new_tokens)):
            texts[i] = tokenizer.decode(ids, skip_special_tokens=False)
    return texts


def _generate(model, prompts: list[list[int]], stops: list[int], max_new_tokens: int) -> list[list[int]]:
    pad, longest = stops[-1], max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=pad)
    return [_until_stop(row[longest:].tolist(), stops) for row in out]


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
