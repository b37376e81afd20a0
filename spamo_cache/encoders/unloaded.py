"""What is known of a stream whose weights are not here: its rows, often its width and cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spamo_cache import checkpoints
from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import SpatialStream, StreamSpec
from spamo_cache.encoders import weights
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import WeightsError


class Shape(NamedTuple):
    """Of a transformer."""

    layers: int
    width: int
    tokens: int

    @property
    def flops(self) -> int:
        """Operations of a forward pass: products with weights, and attention."""
        return self.layers * self.tokens * self.width * (24 * self.width + 4 * self.tokens)


_VIDEOMAE = {"small": (12, 384), "base": (12, 768), "large": (24, 1024), "huge": (32, 1280)}
"""Size in the name of published weights -> layers and width."""
_VIDEOMAE_TOKENS = 8 * 14 * 14


class UnloadedEncoder(Encoder):
    """Places rows as the encoder would; what only weights can tell is 0 or empty."""

    def __init__(self, stream: StreamSpec, shape: Shape | None, weights_sha256: str) -> None:
        super().__init__()
        self.place_rows(stream)
        self.weights_sha256 = weights_sha256
        scales = stream.scales if isinstance(stream, SpatialStream) else (1,)
        self.width = shape.width * len(scales) if shape else 0
        crops = sum(scale * scale for scale in scales)
        self.flops_per_row = shape.flops * crops if shape else 0


def unloaded(stream: StreamSpec, base: Path, pinned: str) -> UnloadedEncoder | None:
    """The outline of a stream's encoder; None where its weights are on this machine.

    Nothing is fetched.

    Args:
        stream: a stream of a cache spec.
        base: folder of the spec's file.
        pinned: under which the hash of fetched weights is recorded.

    Raises:
        WeightsError: the weights are plainly meant as a path, and nothing is there.
    """
    if weights.local(stream.weights, base) is not None:
        return None
    repository, model = stream.weights, None
    if isinstance(stream, SpatialStream) and stream.model is not None:
        model = _open_clip(stream.model)
        if "/" not in stream.weights:
            repository = _repository(stream.model, stream.weights)
    if not checkpoints.is_hub_id(repository):
        return None  # loading it says what is wrong
    folder = checkpoints.cached(repository)
    if folder is not None and _has_weights(folder):
        return None
    shape = _shape(stream, model, folder)
    return UnloadedEncoder(stream, shape, weights.pins().get(pinned, ""))


def _has_weights(folder: Path) -> bool:
    try:
        return bool(checkpoints.files(folder))
    except WeightsError:
        return False


def _open_clip(model: str) -> Mapping[str, Any] | None:
    declare_torchvision_ops()
    import open_clip

    found: Mapping[str, Any] | None = open_clip.get_model_config(model)
    return found


def _repository(model: str, tag: str) -> str:
    """Where the hub has the weights of an open_clip tag; empty where there is no such tag."""
    import open_clip

    known = open_clip.get_pretrained_cfg(model, tag) or {}
    return "/".join(known.get("hf_hub", "").split("/")[:2])


def _shape(
    stream: StreamSpec, model: Mapping[str, Any] | None, folder: Path | None
) -> Shape | None:
    """The network's shape as its model, its configuration or its name tells it."""
    if model is not None:
        return _of_open_clip(stream, model)
    if folder is not None:
        return _of_config(checkpoints.read_json(folder / "config.json"))
    named = re.search(r"videomae-(small|base|large|huge)\b", stream.weights, re.IGNORECASE)
    if named is None:
        return None
    return Shape(*_VIDEOMAE[named[1].lower()], _VIDEOMAE_TOKENS)


def _of_open_clip(stream: StreamSpec, model: Mapping[str, Any]) -> Shape | None:
    given = model["vision_cfg"]
    numbers: list[Any] = [given.get(key) for key in ("layers", "width", "image_size", "patch_size")]
    if "timm_model_name" in given or not all(isinstance(number, int) for number in numbers):
        return None
    layers, width, side, patch = numbers
    tokens = (side // patch) ** 2 + 1
    projected = isinstance(stream, SpatialStream) and stream.output == "embedding"
    return None if projected else Shape(layers, width, tokens)


def _of_config(given: Mapping[str, Any]) -> Shape | None:
    given = given.get("vision_config", given)
    keys = ("num_hidden_layers", "hidden_size", "image_size", "patch_size")
    numbers: list[Any] = [given.get(key) for key in keys]
    if not all(isinstance(number, int) for number in numbers):
        return None
    layers, width, side, patch = numbers
    times = given.get("num_frames", 1) // given.get("tubelet_size", 1)
    return Shape(layers, width, max(1, times) * (side // patch) ** 2)
