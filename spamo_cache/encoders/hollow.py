"""A forward pass without numbers: what a network gives, and how much work it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def run(
    network: nn.Module, shape: tuple[int, ...], options: Mapping[str, Any] | None = None
) -> tuple[Any, int]:
    """Run ``network`` on tensors that have a shape but no values.

    Args:
        network: left as it is.
        shape: of its one positional argument, float32.
        options: its keyword arguments.

    Returns:
        Its output, on the device ``meta``, and the operations counted in it.
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    hollow = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    given = torch.empty(shape, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = functional_call(network, hollow, (given,), dict(options or {}))
    return output, counter.get_total_flops()
