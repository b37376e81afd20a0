"""open_clip's vision towers as networks from crops to one row each.

Plain vision transformers run on this package's blocks, which compute only what the output needs;
any other tower runs as open_clip wrote it, and gives its embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from spamo_cache.config import SpatialStream
from spamo_cache.encoders.blocks import Activation, Block, BlockWeights, run
from spamo_cache.errors import ConfigError


class PlainTower(nn.Module):
    """A ``VisionTransformer``: float32 (crops, 3, side, side) -> (crops, width)."""

    def __init__(self, visual: Any, stream: SpatialStream) -> None:
        """Take over the weights of ``visual``; raises ConfigError for what it does not have."""
        super().__init__()
        resblocks = visual.transformer.resblocks
        depth = _depth(stream, len(resblocks))
        self.patch: int = visual.patch_size[0]
        self.class_token = visual.class_embedding
        self.positions = visual.positional_embedding
        self.embedding = nn.Parameter(visual.conv1.weight.flatten(1), requires_grad=False)
        self.norm_pre = visual.ln_pre
        self.blocks = nn.ModuleList(_block(block) for block in resblocks[:depth])
        self.averages, self.each, self.head = _ending(visual, stream.output)
        self.tokens: int = len(self.positions)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        tokens = self._embed(crops.to(self.embedding.dtype))
        if self.averages:
            patches = self.each(run(self.blocks, tokens)[:, 1:])
            pooled = patches.mean(dim=1)
        else:
            pooled = run(self.blocks, tokens, keep=1)[:, 0]
        output: torch.Tensor = self.head(pooled)
        return output

    def _embed(self, crops: torch.Tensor) -> torch.Tensor:
        # A convolution whose stride is its kernel is a product with flattened patches.
        split = crops.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        patches = split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        embedded = functional.linear(patches, self.embedding)
        cls = self.class_token.expand(len(embedded), 1, -1)
        tokens: torch.Tensor = self.norm_pre(torch.cat([cls, embedded], dim=1) + self.positions)
        return tokens


class WholeTower(nn.Module):
    """Any other tower: float32 (crops, 3, side, side) -> its embedding (crops, width)."""

    def __init__(self, visual: Any, stream: SpatialStream) -> None:
        """Keep ``visual``; raises ConfigError for another output or layer than the last."""
        super().__init__()
        if stream.output != "embedding" or stream.layer != -1:
            raise ConfigError(
                f"{type(visual).__name__} has no layer {stream.layer} with output {stream.output}",
                remedy="set output: embedding and leave `layer` out: only plain vision "
                "transformers have other outputs",
            )
        self.visual = visual
        side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        self.tokens: int = (side // 16) ** 2
        """As many as a transformer would have: it sets the size of batches."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.visual(crops.to(next(self.visual.parameters()).dtype))
        return embedding


def is_plain(visual: Any) -> bool:
    """Whether :class:`PlainTower` computes what this tower does."""
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer

    if type(visual) is not VisionTransformer or visual.attn_pool is not None:
        return False
    if visual.image_size[0] % visual.patch_size[0]:
        return False
    blocks = visual.transformer.resblocks
    if visual.pool_type == "none" or {type(block) for block in blocks} != {ResidualAttentionBlock}:
        return False
    layer = blocks[0].mlp.gelu
    return isinstance(layer, QuickGELU) or getattr(layer, "approximate", "") == "none"


def activation(block: Any) -> Activation:
    """What a plain tower's block applies between its two linear layers."""
    from open_clip.transformer import QuickGELU

    return "quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu"


def _ending(visual: Any, output: str) -> tuple[bool, nn.Module, nn.Module]:
    """Whether patches are averaged, what is applied to each of them, and to what is pooled."""
    norm, nothing = visual.ln_post, nn.Identity()
    if output in ("cls-pre-norm", "mean"):
        return output == "mean", nothing, nothing
    if output == "cls":
        return False, nothing, norm
    inner, outer = visual.proj.shape
    projection = nn.Linear(inner, outer, bias=False, device="meta")
    projection.weight = nn.Parameter(visual.proj.detach().T.contiguous(), requires_grad=False)
    if visual.pool_type == "avg" and not visual.final_ln_after_pool:
        return True, norm, projection
    return visual.pool_type == "avg", nothing, nn.Sequential(norm, projection)


def _depth(stream: SpatialStream, layers: int) -> int:
    layer = stream.layer
    depth = layer + 1 if layer >= 0 else layers + layer + 1
    if not 1 <= depth <= layers:
        raise ConfigError(f"layer {layer}: the tower has {layers} transformer blocks")
    if stream.output == "embedding" and depth < layers:
        raise ConfigError(
            f"layer {layer}: the embedding is made of the last", remedy="leave `layer` out"
        )
    return depth


def _block(block: Any) -> Block:
    attention, mlp = block.attn, block.mlp
    # Layer scale multiplies what a linear layer gave: the layer can give it so.
    scale_1, scale_2 = (getattr(scale, "gamma", None) for scale in (block.ls_1, block.ls_2))
    out, out_bias = _scaled(attention.out_proj, scale_1)
    down, down_bias = _scaled(mlp.c_proj, scale_2)
    taken = BlockWeights(
        qkv=attention.in_proj_weight,
        qkv_bias=attention.in_proj_bias,
        out=out,
        out_bias=out_bias,
        norm_1=(block.ln_1.weight, block.ln_1.bias),
        norm_2=(block.ln_2.weight, block.ln_2.bias),
        up=mlp.c_fc.weight,
        up_bias=mlp.c_fc.bias,
        down=down,
        down_bias=down_bias,
    )
    return Block(taken, heads=attention.num_heads, activation=activation(block), eps=block.ln_1.eps)


def _scaled(layer: nn.Linear, scale: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    if scale is None:
        return layer.weight, layer.bias
    return layer.weight * scale[:, None], layer.bias * scale
