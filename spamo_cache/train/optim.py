"""AdamW with a linear warm-up and cosine decay, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spamo_cache.config import StageConfig

_STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")


def learning_rate(stage: StageConfig, step: int, *, from_zero: bool = False) -> float:
    """Rate of the update that follows ``step`` finished ones.

    Args:
        from_zero: as in the official release (transformers' cosine schedule), where the first
            update has a rate of 0.
    """
    if from_zero:
        warm = int(stage.warmup * stage.steps)
        risen = step
    else:
        warm = round(stage.warmup * stage.steps)
        risen = step + 1
    if step < warm:
        return stage.lr * risen / warm
    done = (step - warm) / max(1, stage.steps - warm)
    return stage.lr * (1 + math.cos(math.pi * done)) / 2


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def make(
    module: nn.Module, stage: StageConfig, *, decay_everything: bool = False
) -> torch.optim.AdamW:
    """AdamW over what is trainable.

    Args:
        decay_everything: biases, norms and scales decay too, not matrices alone.
    """
    trained = [value for value in module.parameters() if value.requires_grad]
    matrices = [value for value in trained if value.ndim > 1 or decay_everything]
    others = [value for value in trained if not (value.ndim > 1 or decay_everything)]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=stage.lr,
        betas=stage.betas,
        eps=stage.eps,
        weight_decay=stage.weight_decay,
        # One kernel for all tensors: on tiny models a loop over tensors costs as much as the model.
        fused=True,
    )


def state(optimiser: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """``<parameter>.<key>`` -> tensor; empty before the first step."""
    held: Mapping[Tensor, Mapping[str, Tensor]] = optimiser.state
    return {
        f"{name}.{key}": held[value][key]
        for name, value in module.named_parameters()
        if value in held
        for key in _STATE_KEYS
    }


def restore(
    optimiser: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`state` gave."""
    for name, value in module.named_parameters():
        if f"{name}.step" in tensors:
            optimiser.state[value] = {
                key: tensors[f"{name}.{key}"].clone().to(value.device) for key in _STATE_KEYS
            }
