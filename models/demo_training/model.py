"""The gpt-oss architecture in plain torch, arranged to train fast on a CPU.

All experts are computed for every token and weighted afterwards (zero for those not chosen): with eight small experts
that is two dense products, faster than gathering. `hugging_face.py` names the weights as checkpoints do.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import mxfp4

NOWHERE = -1e30
FAST = torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32  # without AMX, bf16 is three times slower than f32


@dataclass
class Config:
    """Sizes; the names are those of config.json where it has them."""

    vocab_size: int = 1280
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_local_experts: int = 8
    experts_per_token: int = 4
    intermediate_size: int = 128
    sliding_window: int = 128
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    original_max_position_embeddings: int = 256
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    rms_norm_eps: float = 1e-5
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0

    def layer_types(self) -> list[str]:
        """Sliding and full attention in turn, sliding first."""
        return ["full_attention" if i % 2 else "sliding_attention" for i in range(self.num_hidden_layers)]


def yarn(config: Config) -> tuple[Tensor, float]:
    """Inverse frequencies [head_dim / 2] of YaRN without truncation, and the factor on cos and sin."""
    dim, base = config.head_dim, config.rope_theta

    def dimension(rotations: float) -> float:
        return dim * math.log(config.original_max_position_embeddings / (rotations * 2 * math.pi)) / (2 * math.log(base))

    frequencies = base ** (torch.arange(0, dim, 2, dtype=torch.float) / dim)
    low, high = max(dimension(config.beta_fast), 0), min(dimension(config.beta_slow), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float) - low) / (high - low)).clamp(0, 1)
    inverse = ramp / (config.rope_factor * frequencies) + (1 - ramp) / frequencies
    return inverse, 0.1 * math.log(config.rope_factor) + 1.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in half-split form; x is [batch, heads, tokens, head_dim]."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class RmsNorm(nn.Module):
    """Root-mean-square norm in f32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps))).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with biases and one sink logit per head."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj, self.k_proj = nn.Linear(config.hidden_size, queries), nn.Linear(config.hidden_size, keys)
        self.v_proj, self.o_proj = nn.Linear(config.hidden_size, keys), nn.Linear(queries, config.hidden_size)
        self.sinks = nn.Parameter(torch.zeros(config.num_attention_heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: dict | None = None) -> Tensor:
        """x [batch, tokens, hidden]; cos, sin [batch, 1, tokens, head_dim / 2]; mask [batch, 1, tokens, keys]."""
        batch, tokens, _ = x.shape
        heads, groups, dim = self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim
        q = rotate(self.q_proj(x).view(batch, tokens, heads, dim).transpose(1, 2), cos, sin) * dim**-0.5
        k = rotate(self.k_proj(x).view(batch, tokens, groups, dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, tokens, groups, dim).transpose(1, 2)
        if cache is not None:
            k, v = append(cache, k, v)
        q = q.reshape(batch, groups, heads // groups * tokens, dim)
        scores = torch.matmul(q, k.transpose(2, 3)).view(batch, heads, tokens, -1).float() + mask
        sinks = self.sinks.float().view(1, -1, 1, 1)
        highest = torch.maximum(scores.amax(-1, keepdim=True), sinks).detach()
        raised = torch.exp(scores - highest)
        shares = raised / (raised.sum(-1, keepdim=True) + torch.exp(sinks - highest))
        mixed = torch.matmul(shares.to(v.dtype).view(batch, groups, heads // groups * tokens, -1), v)
        return self.o_proj(mixed.view(batch, heads, tokens, dim).transpose(1, 2).reshape(batch, tokens, -1))


def append(cache: dict, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Adds keys and values to a layer's cache and returns all of them."""
    if cache:
        k, v = torch.cat((cache["k"], k), 2), torch.cat((cache["v"], v), 2)
    cache["k"], cache["v"] = k, v
    return k, v


class Experts(nn.Module):
    """Weights of all experts. Gate and up are kept apart here; checkpoints interleave them."""

    def __init__(self, config: Config):
        super().__init__()
        experts, hidden, width = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate, self.up = nn.Parameter(torch.empty(experts, hidden, width)), nn.Parameter(torch.empty(experts, hidden, width))
        self.gate_bias, self.up_bias = nn.Parameter(torch.zeros(experts, width)), nn.Parameter(torch.zeros(experts, width))
        self.down, self.down_bias = nn.Parameter(torch.empty(experts, width, hidden)), nn.Parameter(torch.zeros(experts, hidden))
        self.rounded, self.kept = False, None

    def weights(self) -> list[Tensor]:
        """gate, up and down; rounded to MXFP4 with straight-through gradients once `rounded` is set."""
        if self.kept is not None:
            return self.kept
        weights = [self.gate, self.up, self.down]
        return [w + (mxfp4.round_trip(w.detach(), 1) - w.detach()) for w in weights] if self.rounded else weights


class Mixture(nn.Module):
    """Router and experts."""

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.router, self.experts = config, nn.Linear(config.hidden_size, config.num_local_experts), Experts(config)

    def forward(self, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the load-balancing loss."""
        config, shape, kind = self.config, x.shape, x.dtype
        hidden, experts = shape[-1], config.num_local_experts
        x = x.reshape(-1, hidden)
        logits = F.linear(x.float(), self.router.weight.float(), self.router.bias.float())
        top, chosen = logits.topk(config.experts_per_token, -1)
        share = torch.zeros_like(logits).scatter(1, chosen, top.softmax(-1))
        balance = (logits.softmax(-1).mean(0) * (share > 0).float().mean(0)).sum() * (experts / config.experts_per_token)
        g = F.linear(x, gate.permute(0, 2, 1).reshape(-1, hidden).to(kind), self.experts.gate_bias.reshape(-1).to(kind))
        u = F.linear(x, up.permute(0, 2, 1).reshape(-1, hidden).to(kind), self.experts.up_bias.reshape(-1).to(kind))
        g, u = g.view(len(x), experts, -1).float().clamp(max=config.swiglu_limit), u.view(len(x), experts, -1).float()
        u = u.clamp(-config.swiglu_limit, config.swiglu_limit)
        active = ((u + 1) * (g * torch.sigmoid(config.swiglu_alpha * g)) * share.unsqueeze(-1)).to(kind)
        out = active.view(len(x), -1) @ down.reshape(-1, hidden).to(kind) + share.to(kind) @ self.experts.down_bias.to(kind)
        return out.view(shape), balance


class Layer(nn.Module):
    """Attention and mixture of experts, each behind a norm and added to the stream."""

    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mixture(config)


def attention_part(layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: dict | None = None) -> Tensor:
    """The first half of a layer."""
    return x + layer.self_attn(layer.input_layernorm(x), cos, sin, mask, cache)


def mixture_part(layer: Layer, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The second half of a layer."""
    out, balance = layer.mlp(layer.post_attention_layernorm(x), gate, up, down)
    return x + out, balance


class GptOss(nn.Module):
    """The whole model."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.inverse_frequencies, self.concentration = yarn(config)
        self.attention_part, self.mixture_part = attention_part, mixture_part

    def compile(self) -> None:
        """Compiles the two halves of a layer, for training."""
        self.attention_part = torch.compile(attention_part, dynamic=False)
        self.mixture_part = torch.compile(mixture_part, dynamic=True)

    def forward(self, ids: Tensor, positions: Tensor, full: Tensor, sliding: Tensor, wanted: Tensor | None = None,
                caches: list[dict] | None = None, kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Final hidden states of the flat indices `wanted` (or of all tokens) and the balancing loss.

        ids, positions [batch, tokens]; full, sliding: additive masks [batch, 1, tokens, keys].
        """
        angles = positions.float()[:, None, :, None] * self.inverse_frequencies
        cos, sin = angles.cos() * self.concentration, angles.sin() * self.concentration
        x, balance = self.embed_tokens(ids).to(kind), torch.zeros(())
        for i, layer in enumerate(self.layers):
            mask = full if i % 2 else sliding
            if caches is None:
                x = self.attention_part(layer, x, cos, sin, mask)
            else:
                x = attention_part(layer, x, cos, sin, mask, caches[i])
            if i + 1 == len(self.layers) and wanted is not None:
                x = x.reshape(-1, x.shape[-1])[wanted]
            part = self.mixture_part if caches is None else mixture_part
            x, loss = part(layer, x, *layer.mlp.experts.weights())
            balance = balance + loss
        return self.norm(x), balance / len(self.layers)
