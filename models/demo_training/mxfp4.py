"""MXFP4: blocks of 32 values of four bits (e2m1) under one power-of-two scale (e8m0)."""

import torch
from torch import Tensor

MAGNITUDES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
BOUNDARIES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
BLOCK = 32


def exponents(blocks: Tensor) -> Tensor:
    """The scale's exponent for each block [..., 1]: the largest value may be clipped from 7 to 6, not from more."""
    largest = blocks.abs().amax(-1, keepdim=True)
    exponent = torch.floor(torch.log2(largest.clamp(min=2.0**-120))) - 2
    return torch.where(largest / torch.exp2(exponent) > 7.0, exponent + 1, exponent).clamp(-127, 127)


@torch.no_grad()
def round_trip(weight: Tensor, dim: int) -> Tensor:
    """The weight after packing along `dim` and unpacking."""
    moved = weight.transpose(dim, -1)
    blocks = moved.reshape(*moved.shape[:-1], -1, BLOCK)
    scale = torch.exp2(exponents(blocks))
    values = MAGNITUDES[torch.bucketize((blocks.abs() / scale).contiguous(), BOUNDARIES)] * torch.sign(blocks) * scale
    return values.reshape(moved.shape).transpose(dim, -1)


@torch.no_grad()
def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[experts, rows, cols] to blocks u8 [experts, rows, cols / 32, 16], low nibble first, and scales u8."""
    experts, rows, cols = weight.shape
    blocks = weight.reshape(experts, rows, cols // BLOCK, BLOCK)
    exponent = exponents(blocks)
    code = torch.bucketize((blocks.abs() / torch.exp2(exponent)).contiguous(), BOUNDARIES)
    code = torch.where((blocks < 0) & (code > 0), code + 8, code)
    packed = (code[..., 0::2] | (code[..., 1::2] << 4)).to(torch.uint8)
    return packed.contiguous(), (exponent[..., 0] + 127).to(torch.uint8).contiguous()


@torch.no_grad()
def unpack(blocks: Tensor, scales: Tensor) -> Tensor:
    """What `pack` packed, rounded: f32 [experts, rows, cols]."""
    code = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    values = MAGNITUDES[code & 7] * torch.where(code > 7, -1.0, 1.0)
    return (values * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)
