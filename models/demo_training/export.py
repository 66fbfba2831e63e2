"""Writes a training checkpoint as a Hugging Face folder with the layout of openai/gpt-oss-20b: MXFP4 experts, bf16 rest."""

import argparse
import json
import shutil
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from . import mxfp4
from .model import Config, GptOss, Layer

NOT_QUANTIZED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def load(path: Path) -> tuple[GptOss, int, int]:
    """The model of a training checkpoint, its step and how many tokens it has seen."""
    kept = torch.load(path, weights_only=False)
    model = GptOss(Config(**{f.name: kept["config"][f.name] for f in fields(Config)}))
    model.load_state_dict(kept["model"])
    return model, kept["step"], kept["num_tokens"]


@torch.no_grad()
def average(model: GptOss, older: GptOss, share: float) -> None:
    """Mixes a share of older weights in, which does some of what a falling learning rate would."""
    for weight, other in zip(model.parameters(), older.parameters()):
        weight.lerp_(other, share)


def tensors(model: GptOss) -> dict[str, Tensor]:
    """Every tensor under its checkpoint name."""
    found = {"model.embed_tokens.weight": model.embed_tokens.weight, "model.norm.weight": model.norm.weight, "lm_head.weight": model.lm_head.weight}
    for i, layer in enumerate(model.layers):
        found |= {f"model.layers.{i}.{name}": value for name, value in _layer(layer).items()}
    packed = ("_blocks", "_scales")
    return {name: (value if name.endswith(packed) else value.detach().bfloat16()).contiguous() for name, value in found.items()}


def _layer(layer: Layer) -> dict[str, Tensor]:
    attention, experts = layer.self_attn, layer.mlp.experts
    found = {f"self_attn.{name}": value for name, value in attention.named_parameters()}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        found[f"{norm}.weight"] = getattr(layer, norm).weight
    found |= {f"mlp.router.{name}": value for name, value in layer.mlp.router.named_parameters()}
    gate_up = torch.stack((experts.gate, experts.up), -1).flatten(-2)  # [experts, hidden, 2 * width], gate and up in turn
    for name, weight in (("gate_up_proj", gate_up), ("down_proj", experts.down)):
        found[f"mlp.experts.{name}_blocks"], found[f"mlp.experts.{name}_scales"] = mxfp4.pack(weight.detach().transpose(1, 2).contiguous())
    found["mlp.experts.gate_up_proj_bias"] = torch.stack((experts.gate_bias, experts.up_bias), -1).flatten(-2)
    found["mlp.experts.down_proj_bias"] = experts.down_bias
    return found


def config_json(config: Config, tokenizer: Tokenizer) -> dict:
    """config.json with the fields of the published checkpoints."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": tokenizer.token_to_id("<|return|>"),
        "experts_per_token": config.experts_per_token,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initial_context_length": config.original_max_position_embeddings,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": config.layer_types(),
        "max_position_embeddings": int(config.original_max_position_embeddings * config.rope_factor),
        "model_type": "gpt_oss",
        "num_attention_heads": config.num_attention_heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "num_local_experts": config.num_local_experts,
        "output_router_logits": False,
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "quantization_config": {"modules_to_not_convert": NOT_QUANTIZED, "quant_method": "mxfp4"},
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": {
            "beta_fast": config.beta_fast, "beta_slow": config.beta_slow, "factor": config.rope_factor,
            "original_max_position_embeddings": config.original_max_position_embeddings, "rope_type": "yarn", "truncate": False,
        },
        "rope_theta": config.rope_theta,
        "router_aux_loss_coef": 0.9,
        "sliding_window": config.sliding_window,
        "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def side_files(config: Config, tokenizer: Tokenizer) -> dict[str, dict]:
    """The JSON files beside the weights."""
    end, start = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|startoftext|>")
    stops = [tokenizer.token_to_id(text) for text in ("<|return|>", "<|endoftext|>", "<|call|>")]
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    settings = {"clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"], "tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "config.json": config_json(config, tokenizer),
        "generation_config.json": {"bos_token_id": start, "do_sample": True, "eos_token_id": stops, "pad_token_id": end},
        "tokenizer_config.json": names | settings,
        "special_tokens_map.json": names,
    }


def write(model: GptOss, tokenizer_path: Path, out: Path) -> int:
    """Writes the folder and returns the size of the weights in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in side_files(model.config, Tokenizer.from_file(str(tokenizer_path))).items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.copy(tokenizer_path, out / "tokenizer.json")
    save_file(tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    return (out / "model.safetensors").stat().st_size


def main() -> None:
    """Exports one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/checkpoint.pt"))
    parser.add_argument("--tokenizer", type=Path, default=Path("build/tokenizer.json"))
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--older", type=Path, help="a second checkpoint to average with")
    parser.add_argument("--older-share", type=float, default=0.4)
    options = parser.parse_args()
    model, step, num_tokens = load(options.checkpoint)
    if options.older:
        average(model, load(options.older)[0], options.older_share)
    size = write(model, options.tokenizer, options.out)
    print(f"step {step}, {num_tokens / 1e6:.2f} M tokens, weights {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
