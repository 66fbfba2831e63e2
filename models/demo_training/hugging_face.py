"""Names and layouts of the weights in checkpoints: from the training model to tensors, and back."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from . import mxfp4
from .model import Config, GptOss, Layer

NORMS = ("input_layernorm", "post_attention_layernorm")


def tensors(model: GptOss) -> dict[str, Tensor]:
    """Every tensor under its checkpoint name: experts in MXFP4, the rest in bf16."""
    found = {f"{_outer(name)}.weight": getattr(model, name).weight for name in ("embed_tokens", "norm", "lm_head")}
    for i, layer in enumerate(model.layers):
        found |= {f"model.layers.{i}.{name}": value for name, value in (_plain(layer) | _packed(layer)).items()}
    packed = ("_blocks", "_scales")
    return {name: (value if name.endswith(packed) else value.detach().bfloat16()).contiguous() for name, value in found.items()}


def _outer(name: str) -> str:
    return name if name == "lm_head" else f"model.{name}"


def _plain(layer: Layer) -> dict[str, Tensor]:
    """The parameters of a layer that a checkpoint keeps as they are."""
    found = {f"self_attn.{name}": value for name, value in layer.self_attn.named_parameters()}
    found |= {f"{norm}.weight": getattr(layer, norm).weight for norm in NORMS}
    found |= {f"mlp.router.{name}": value for name, value in layer.mlp.router.named_parameters()}
    return found | {"mlp.experts.down_proj_bias": layer.mlp.experts.down_bias}


def _packed(layer: Layer) -> dict[str, Tensor]:
    """The experts of a layer, gate and up in turn, packed along the dimension that a product sums over."""
    experts, found = layer.mlp.experts, {}
    gate_up = torch.stack((experts.gate, experts.up), -1).flatten(-2)  # [experts, hidden, 2 * width]
    for name, weight in (("gate_up_proj", gate_up), ("down_proj", experts.down)):
        found[f"mlp.experts.{name}_blocks"], found[f"mlp.experts.{name}_scales"] = mxfp4.pack(weight.detach().transpose(1, 2).contiguous())
    found["mlp.experts.gate_up_proj_bias"] = torch.stack((experts.gate_bias, experts.up_bias), -1).flatten(-2)
    return found


@torch.no_grad()
def read(folder: Path) -> GptOss:
    """The training model of a checkpoint folder that `tensors` once wrote."""
    entries = json.loads((folder / "config.json").read_text())
    config = Config(**{name: entries[name] for name in Config.__dataclass_fields__ if name in entries})
    model, found = GptOss(config), load_file(folder / "model.safetensors")
    for name in ("embed_tokens", "norm", "lm_head"):
        getattr(model, name).weight.copy_(found[f"{_outer(name)}.weight"])
    for i, layer in enumerate(model.layers):
        start = f"model.layers.{i}."
        _read_layer(layer, {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)})
    return model


def _read_layer(layer: Layer, found: dict[str, Tensor]) -> None:
    for name, value in _plain(layer).items():
        value.copy_(found[name])
    experts, start = layer.mlp.experts, "mlp.experts."
    gate_up, down = (mxfp4.unpack(found[f"{start}{name}_blocks"], found[f"{start}{name}_scales"]).transpose(1, 2) for name in ("gate_up_proj", "down_proj"))
    experts.gate.copy_(gate_up[..., 0::2])
    experts.up.copy_(gate_up[..., 1::2])
    experts.down.copy_(down)
    bias = found[f"{start}gate_up_proj_bias"]
    experts.gate_bias.copy_(bias[..., 0::2])
    experts.up_bias.copy_(bias[..., 1::2])
