"""Encoders that learn: a LoRA on their last blocks, and gradients through these alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import EncodersConfig
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import ConfigError

_ATTENTION = (
    ("qkv", "out"),  # this package's own blocks
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("qkv",),
)
"""Linear layers of a block's attention as networks name them."""


class TunableEncoder(nn.Module):
    """An encoder with a LoRA: pixels of rows in, rows of features out, by :meth:`Encoder.forward`.

    Only the LoRA is trained, and gradients flow through its blocks alone; their activations are
    recomputed in the backward pass, in portions as small as those of extraction.

    Args:
        encoder: taken over; at first its features stay what they were.
        seed: of the LoRA's first weights.

    Raises:
        ConfigError: the network has fewer blocks, or no such layers.
    """

    def __init__(self, encoder: Encoder, config: EncodersConfig, seed: int) -> None:
        super().__init__()
        side = encoder.preprocess.resize_spec.size
        frames = () if encoder.span == 1 else (encoder.span,)
        self.shape = (*frames, side, side, 3)
        """Of one row's pixels."""
        self.encoder = encoder
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            _tune(encoder.network, config)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (rows, values of ``shape``) -> float32 (rows, width)."""
        windows = pixels.unflatten(1, self.shape).movedim(-1, -3)
        portion = self.encoder.batch_rows(pixels.device.type)
        return torch.cat([self.encoder(part) for part in windows.split(portion)])

    def train(self, mode: bool = True) -> TunableEncoder:
        """Only the LoRA learns: the network's own dropout stays off."""
        super().train(mode=False)
        for name, module in self.named_modules():
            if ".lora_dropout" in name:
                module.train(mode)
        self.training = mode
        return self


def _tune(network: nn.Module, config: EncodersConfig) -> None:
    """Put the LoRA into the last blocks of ``network``, and let them be computed twice."""
    declare_torchvision_ops()
    from peft import LoraConfig, inject_adapter_in_model

    blocks = _blocks(network, config.blocks)
    for block in blocks:
        lora = LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.targets or _attention(block)),
        )
        try:
            inject_adapter_in_model(lora, block)
        except ValueError as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(reason, where="encoders.targets") from error
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _blocks(network: nn.Module, count: int) -> list[Any]:
    """The last ``count`` of the network's blocks: of its longest list of modules."""
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    longest = max(lists, key=len, default=nn.ModuleList())
    if len(longest) < count:
        raise ConfigError(
            f"{type(network).__name__} has {len(longest)} blocks that can be tuned",
            where=f"encoders.blocks: {count}",
        )
    return list(longest)[-count:]


def _attention(block: nn.Module) -> tuple[str, ...]:
    names = {name.rpartition(".")[2] for name, _ in block.named_modules()}
    for layers in _ATTENTION:
        if names.issuperset(layers):
            return layers
    raise ConfigError(
        f"the attention of {type(block).__name__} has no layers known here",
        where="encoders.targets",
        remedy="name linear layers of its blocks",
    )
