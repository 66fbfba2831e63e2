"""Writes a training checkpoint as a Hugging Face folder with the layout of openai/gpt-oss-20b: MXFP4 experts, bf16 rest."""

import argparse
import json
import shutil
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from . import hugging_face
from .model import Config, GptOss

NOT_QUANTIZED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def load(path: Path) -> tuple[GptOss, int, int]:
    """The model of a training checkpoint, its step and how many tokens it has seen."""
    kept = torch.load(path, weights_only=False)
    model = GptOss(Config(**{f.name: kept["config"][f.name] for f in fields(Config)}))
    model.load_state_dict(kept["model"])
    return model, kept["step"], kept["num_tokens"]


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
    save_file(hugging_face.tensors(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    return (out / "model.safetensors").stat().st_size


def main() -> None:
    """Exports one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/checkpoint.pt"))
    parser.add_argument("--tokenizer", type=Path, default=Path("build/tokenizer.json"))
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    model, step, num_tokens = load(options.checkpoint)
    size = write(model, options.tokenizer, options.out)
    print(f"step {step}, {num_tokens / 1e6:.2f} M tokens, weights {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
