"""Logits of every position, by transformers' GptOssForCausalLM in float32 with eager attention.

    python reference_logits.py CHECKPOINT ids.json out.safetensors

ids.json is a list of token ids; the output holds one tensor `logits` [tokens, vocab], f32.
"""

import argparse
import json

import torch
from safetensors.torch import save_file
from transformers import DynamicCache, GptOssForCausalLM, Mxfp4Config

# Longer prompts are computed in chunks over a KV cache: eager attention holds heads * chunk * context scores.
CHUNK = 512


def load_model(checkpoint):
    """The model in float32; MXFP4 experts are dequantised, which is exact."""
    with open(f"{checkpoint}/config.json", encoding="utf-8") as file:
        quantised = "quantization_config" in json.load(file)
    options = {"quantization_config": Mxfp4Config(dequantize=True)} if quantised else {}
    model = GptOssForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", **options
    )
    types = {parameter.dtype for parameter in model.parameters()}
    assert types == {torch.float32}, types
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    """[tokens, vocab] for a list of ids."""
    cache = DynamicCache(config=model.config)
    rows = []
    for start in range(0, len(ids), CHUNK):
        chunk = torch.tensor([ids[start : start + CHUNK]])
        rows.append(model(chunk, past_key_values=cache, use_cache=True).logits[0])
    return torch.cat(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("ids")
    parser.add_argument("out")
    args = parser.parse_args()
    with open(args.ids, encoding="utf-8") as file:
        ids = json.load(file)
    save_file({"logits": logits(load_model(args.checkpoint), ids)}, args.out)


if __name__ == "__main__":
    main()
