"""Initial weights: random, plus heads that look one to four tokens back and heads that match what they found.

A model of this size finds copying by itself only after millions of tokens. These heads are the known circuit for it
(a previous-token head followed by a matching head); training is free to change them.
"""

import math

import torch

from .model import GptOss

NUM_FAST = 9
LOOK_BACK_SHARPNESS = 20.0
MATCH_GAIN = 2.5


@torch.no_grad()
def fill(model: GptOss) -> None:
    """Random weights everywhere."""
    hidden, depth = model.config.hidden_size, math.sqrt(model.config.num_hidden_layers)
    for name, weight in model.named_parameters():
        if name.endswith(("bias", "sinks")):
            torch.nn.init.zeros_(weight)
        elif weight.dim() == 1:
            continue
        elif "embed" in name:
            torch.nn.init.normal_(weight, std=0.7)
        elif "lm_head" in name or "router" in name:
            torch.nn.init.normal_(weight, std=0.02)
        elif name.endswith("down") or "o_proj" in name:
            torch.nn.init.normal_(weight, std=0.5 / math.sqrt(weight.shape[-2] if weight.dim() == 3 else weight.shape[-1]) / depth)
        else:
            torch.nn.init.normal_(weight, std=0.6 / math.sqrt(hidden))
    look_back(model)
    for layer in model.layers[1:2]:
        match(model, layer)
    copy_out(model)


def look_back(model: GptOss) -> None:
    """Heads 0 to 3 of the first layer attend to the token 1, 2, 3 and 4 places back, by position alone."""
    attention, dim = model.layers[0].self_attn, model.config.head_dim
    frequencies = model.inverse_frequencies[:NUM_FAST]
    size = math.sqrt(LOOK_BACK_SHARPNESS * math.sqrt(dim) / model.concentration**2 / NUM_FAST)
    attention.k_proj.weight[:dim] *= 0.1
    attention.k_proj.bias[:NUM_FAST] = size
    for head in range(4):
        rows = slice(head * dim, (head + 1) * dim)
        attention.q_proj.weight[rows] *= 0.1
        bias = torch.zeros(dim)
        bias[:NUM_FAST] = torch.cos(-frequencies * (head + 1)) * size
        bias[dim // 2 : dim // 2 + NUM_FAST] = torch.sin(-frequencies * (head + 1)) * size
        attention.q_proj.bias[rows] = bias
    u, _, v = torch.linalg.svd(attention.o_proj.weight[:, :dim], full_matrices=False)
    attention.o_proj.weight[:, :dim] = (u @ v) * 0.9


def match(model: GptOss, layer) -> None:
    """Two heads whose query is a token and whose key is the token that head 0 of the first layer found there."""
    first, dim = model.layers[0].self_attn, model.config.head_dim
    slow = torch.cat((torch.arange(dim // 4, dim // 2), torch.arange(dim // 2 + dim // 4, dim)))
    attention = layer.self_attn
    keys, queries = torch.zeros(dim, model.config.hidden_size), torch.zeros(dim, model.config.hidden_size)
    keys[slow] = first.o_proj.weight[:, :dim].t()[: len(slow)] * MATCH_GAIN
    queries[slow] = first.v_proj.weight[: len(slow)] * MATCH_GAIN
    attention.k_proj.weight[:dim] = keys
    for head in range(2):
        attention.q_proj.weight[head * dim : (head + 1) * dim] = queries


def copy_out(model: GptOss) -> None:
    """The matching heads pass on the token they attend to, and the output reads embeddings."""
    attention, dim, hidden = model.layers[1].self_attn, model.config.head_dim, model.config.hidden_size
    basis = torch.linalg.qr(torch.randn(hidden, dim))[0]
    attention.v_proj.weight[:dim] = basis.t()
    attention.o_proj.weight[:, :dim] = basis * 1.5
    attention.o_proj.weight[:, dim : 2 * dim] = 0
    model.lm_head.weight.copy_(model.embed_tokens.weight / 0.7 * 0.03)
