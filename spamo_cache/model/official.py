"""The official release's checkpoint (a Lightning file) under this package's names."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spamo_cache.errors import WeightsError

STREAMS = {"spatial": "spatio_proj", "motion": "spatiotemp_proj"}
_ADAPTER = {
    "fusion_proj.0": "adapter.mlp.0",
    "fusion_proj.2": "adapter.mlp.2",
    "temporal_encoder.temporal_conv.0": "adapter.tcn.convs.0",
    "temporal_encoder.temporal_conv.1": "adapter.tcn.norms.0",
    "temporal_encoder.temporal_conv.4": "adapter.tcn.convs.1",
    "temporal_encoder.temporal_conv.5": "adapter.tcn.norms.1",
} | {theirs: f"adapter.projections.{stream}" for stream, theirs in STREAMS.items()}


_OFFICIAL = {ours: theirs for theirs, ours in _ADAPTER.items()}

OURS_ALONE = frozenset({"adapter.rms", "align.center", "embeddings.weight"})
"""Names of ours that an official checkpoint has nothing for: not used there, or held twice."""


def our_name(name: str) -> str:
    """``fusion_proj.0.weight`` -> ``adapter.mlp.0.weight``; peft names stay below ``llm.model``."""
    if name == "logit_scale":
        return "align.log_scale"
    module, _, leaf = name.rpartition(".")
    if module in _ADAPTER:
        return f"{_ADAPTER[module]}.{leaf}"
    return f"llm.model.{name.removeprefix('t5_model.')}"


def their_name(name: str) -> str:
    """The reverse of :func:`our_name`."""
    if name == "align.log_scale":
        return "logit_scale"
    module, _, leaf = name.rpartition(".")
    if module in _OFFICIAL:
        return f"{_OFFICIAL[module]}.{leaf}"
    return f"t5_model.{name.removeprefix('llm.model.')}"


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of an official checkpoint, read without running any code in it.

    What Lightning keeps beside it (settings, callbacks) may be objects of any class; they are
    read as plain dictionaries.

    Returns:
        This package's names -> tensors: adapter, temperature and the whole LLM with its LoRA.

    Raises:
        WeightsError: not such a checkpoint.
    """
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        with torch.serialization.safe_globals([(_StandIn, name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot be read as a checkpoint: {' '.join(str(error).split())[:200]}", where=path
        ) from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not _ADAPTER.keys() <= _modules(state):
        raise WeightsError("is no checkpoint of the official release", where=path)
    return {our_name(name): value for name, value in state.items()}


class _StandIn:
    """Instead of an object of an unknown class, an empty dictionary, which torch agrees to fill."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _modules(state: Mapping[str, Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in state}
