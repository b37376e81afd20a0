"""SE, the spatial encoder (paper section 3.1): a CLIP image tower over S2 scales of each frame.

Every scale s shows the frame at s times the encoder's input size, cut into s x s crops. A scale's
feature is the mean over its crops, and the scales' features stand side by side. The larger images
are interpolated from the normalised base image, as the official release does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from spamo_cache.config import SpatialStream
from spamo_cache.encoders import towers, weights
from spamo_cache.encoders.blocks import Block, BlockWeights, flops, run
from spamo_cache.encoders.preprocess import Normalise
from spamo_cache.errors import ConfigError, WeightsError


class SpatialEncoder(nn.Module):
    """One row per ``stride`` frames, of ``len(scales) * tower width`` values."""

    per: Literal["frame"] = "frame"
    span: int = 1

    def __init__(self, stream: SpatialStream, base: Path) -> None:
        """Load the weights; raises ConfigError or WeightsError as :func:`towers.load` does."""
        super().__init__()
        tower = towers.load(stream, base)
        visual = tower.visual
        depth = _depth(stream.layer, len(visual.transformer.resblocks))
        self.scales, self.stride = stream.scales, stream.stride
        self.output = stream.output
        self.preprocess = tower.preprocess
        self.weights_sha256 = _hash(tower)
        self.patch: int = visual.patch_size[0]
        self.tower_width: int = visual.conv1.weight.shape[0]
        self.width = self.tower_width * len(self.scales)
        side = tower.preprocess.geometry.size
        tokens, crops = (side // self.patch) ** 2 + 1, sum(s * s for s in self.scales)
        self.tokens_per_row = tokens * crops
        self.normalise = Normalise(tower.preprocess)
        self.enlarge = nn.ParameterList(
            nn.Parameter(_bicubic(side, scale), requires_grad=False) for scale in self.scales
        )
        self.class_token = visual.class_embedding
        self.positions = visual.positional_embedding
        self.embedding = nn.Parameter(visual.conv1.weight.flatten(1), requires_grad=False)
        self.norm_pre, self.norm_post = visual.ln_pre, visual.ln_post
        self.blocks = nn.ModuleList(
            _block(block, tower) for block in visual.transformer.resblocks[:depth]
        )
        self.flops_per_row = flops(self.blocks, tokens) * crops

    def rows(self, frames: int) -> int:
        """Rows of a clip of ``frames`` frames."""
        return len(self.starts(frames))

    def starts(self, frames: int) -> Sequence[int]:
        """Frame of each row."""
        return range(0, frames, self.stride)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode prepared frames.

        Args:
            pixels: uint8 (rows, 3, size, size) on the encoder's device.

        Returns:
            float32 (rows, width).
        """
        base = self.normalise(pixels)
        crops = torch.cat([self._crops(base, k) for k in range(len(self.scales))], dim=1)
        tokens = self._tower(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        counts = [scale * scale for scale in self.scales]
        scaled = [part.float().mean(dim=1) for part in tokens.split(counts, dim=1)]
        return torch.cat(scaled, dim=-1)

    def _crops(self, base: torch.Tensor, index: int) -> torch.Tensor:
        """(rows, 3, side, side) -> (rows, scale * scale, 3, side, side), row-major."""
        scale = self.scales[index]
        if scale == 1:
            return base[:, None]
        # Interpolation is linear: along each axis one product with a matrix made once.
        matrix = self.enlarge[index]
        large = matrix @ base @ matrix.T
        rows, channels, side, _ = base.shape
        grid: torch.Tensor = large.view(rows, channels, scale, side, scale, side)
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def _tower(self, crops: torch.Tensor) -> torch.Tensor:
        patches = functional.pixel_unshuffle(crops.to(self.embedding.dtype), self.patch)
        embedded = functional.linear(patches.flatten(2).transpose(1, 2), self.embedding)
        cls = self.class_token.expand(len(embedded), 1, -1)
        tokens = self.norm_pre(torch.cat([cls, embedded], dim=1) + self.positions)
        if self.output == "mean":
            return run(self.blocks, tokens)[:, 1:].mean(dim=1)
        first = run(self.blocks, tokens, keep=1)[:, 0]
        return first if self.output == "cls-pre-norm" else self.norm_post(first)


def _bicubic(side: int, scale: int) -> torch.Tensor:
    """Matrix (scale * side, side) of torch's bicubic interpolation along one axis."""
    identity = torch.eye(side)[None, None]
    size = (scale * side, side)
    return functional.interpolate(identity, size=size, mode="bicubic", align_corners=False)[0, 0]


def _depth(layer: int, layers: int) -> int:
    depth = layer + 1 if layer >= 0 else layers + layer + 1
    if not 1 <= depth <= layers:
        raise ConfigError(f"layer {layer}: the tower has {layers} transformer blocks")
    return depth


def _block(block: Any, tower: towers.Tower) -> Block:
    if not isinstance(block.ls_1, nn.Identity):
        raise WeightsError("towers with layer scale are not supported")
    attention, mlp = block.attn, block.mlp
    taken = BlockWeights(
        qkv=attention.in_proj_weight,
        qkv_bias=attention.in_proj_bias,
        out=attention.out_proj.weight,
        out_bias=attention.out_proj.bias,
        norm_1=(block.ln_1.weight, block.ln_1.bias),
        norm_2=(block.ln_2.weight, block.ln_2.bias),
        up=mlp.c_fc.weight,
        up_bias=mlp.c_fc.bias,
        down=mlp.c_proj.weight,
        down_bias=mlp.c_proj.bias,
    )
    return Block(taken, heads=attention.num_heads, activation=tower.activation, eps=block.ln_1.eps)


def _hash(tower: towers.Tower) -> str:
    block = tower.visual.transformer.resblocks[0]
    header = {
        "kind": "clip-vision",
        "heads": block.attn.num_heads,
        "activation": tower.activation,
        "eps": block.ln_1.eps,
        "preprocess": tower.preprocess.describe(),
    }
    return weights.sha256(tower.visual.state_dict(), header)
