"""From decoded frames to an encoder's input: resize, centre crop, and later normalise.

Resizing is done once per distinct :class:`Geometry` and kept as uint8, so that encoders of equal
geometry share it and a quarter of the bytes travel; normalising happens on the device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from spamo_cache.errors import WeightsError

Resize = Literal["torchvision-uint8", "pil"]
Interpolation = Literal["bilinear", "bicubic"]

_PIL = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_RESAMPLE: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a frame of any size becomes a square one."""

    size: int
    """Side of the encoder's input, pixels."""
    shortest: int | None
    """Short side the frame is resized to before the centre crop; None squashes it to a square."""
    interpolation: Interpolation


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Geometry and normalisation as the weights' authors prescribe them."""

    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def describe(self) -> dict[str, Any]:
        """Everything that moves a feature, for the weights' hash."""
        geometry = self.geometry
        return {
            "size": geometry.size,
            "shortest": geometry.shortest,
            "interpolation": geometry.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def from_processor(path: Path, *, size: int) -> Preprocess:
    """Read a Hugging Face ``preprocessor_config.json`` for an encoder with inputs of ``size``.

    Raises:
        WeightsError: the file is missing, broken, or asks for something unknown here.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        resized = given["size"]
        crop = _side(given.get("crop_size", size))
        shortest = _side(resized) if isinstance(resized, int) else resized.get("shortest_edge")
        if shortest is None and (resized["height"], resized["width"]) != (size, size):
            raise WeightsError("resizes to something else than the encoder's input", where=path)
        geometry = Geometry(
            size=size, shortest=shortest, interpolation=_RESAMPLE[given.get("resample", 2)]
        )
        mean, std = _triple(given["image_mean"]), _triple(given["image_std"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"no usable image processor ({type(error).__name__}: {error})",
            where=path,
            remedy="take the preprocessor_config.json published with the weights",
        ) from None
    if shortest is not None and not crop == size <= shortest:
        raise WeightsError(f"crops {crop} px for an encoder of {size} px", where=path)
    return Preprocess(geometry=geometry, mean=mean, std=std)


def from_open_clip(given: Mapping[str, Any], *, size: int) -> Preprocess:
    """Read open_clip's ``preprocess_cfg`` (of a tag or an ``open_clip_config.json``)."""
    import open_clip

    mode = given.get("resize_mode", "shortest")
    interpolation = given.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or interpolation not in _PIL:
        raise WeightsError(f"open_clip preprocessing {mode}/{interpolation} is not supported")
    return Preprocess(
        geometry=Geometry(
            size=size,
            shortest=size if mode == "shortest" else None,
            interpolation=interpolation,
        ),
        mean=_triple(given.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=_triple(given.get("std", open_clip.OPENAI_DATASET_STD)),
    )


def prepare(frames_thwc: NDArray[np.uint8], geometry: Geometry, resize: Resize) -> torch.Tensor:
    """Resize and centre-crop frames, staying in uint8.

    Args:
        frames_thwc: (frames, height, width, 3) RGB.
        geometry: what the encoder wants.
        resize: ``pil`` equals the official processors bit for bit; ``torchvision-uint8`` differs
            from it by at most 2 of 255 levels and is 6-12 times faster.

    Returns:
        uint8 (frames, 3, size, size), channels last in memory.
    """
    _, height, width, _ = frames_thwc.shape
    target = _target(height, width, geometry)
    if target != (height, width):
        scale = _resize_pil if resize == "pil" else _resize_torch
        frames_thwc = scale(frames_thwc, target, geometry.interpolation)
    top, left = ((side - geometry.size) // 2 for side in target)
    square = frames_thwc[:, top : top + geometry.size, left : left + geometry.size]
    whole = np.require(square, requirements=("C", "W"))
    return torch.from_numpy(whole).permute(0, 3, 1, 2)


class Normalise(torch.nn.Module):
    """uint8 pixels (..., 3, height, width) -> float32 with the encoder's mean and std."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(v, dtype=torch.float64) for v in (preprocess.mean, preprocess.std)
        )
        # (x / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", (1 / (255 * std)).float().view(3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return floats.mul_(self.scale).add_(self.shift)


def _target(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    short = geometry.shortest
    if short is None:
        return geometry.size, geometry.size
    # The long side is cut down, not rounded: 210x260 becomes 224x277.
    if height <= width:
        return short, short * width // height
    return short * height // width, short


def _resize_pil(
    frames_thwc: NDArray[np.uint8], target: tuple[int, int], interpolation: Interpolation
) -> NDArray[np.uint8]:
    size = target[1], target[0]
    scaled = [Image.fromarray(frame).resize(size, _PIL[interpolation]) for frame in frames_thwc]
    return np.stack([np.asarray(frame) for frame in scaled])


def _resize_torch(
    frames_thwc: NDArray[np.uint8], target: tuple[int, int], interpolation: Interpolation
) -> NDArray[np.uint8]:
    # Channels last is the layout of the fast kernel, and the one decoders deliver.
    frames = torch.from_numpy(np.require(frames_thwc, requirements=("C", "W")))
    scaled = functional.interpolate(
        frames.permute(0, 3, 1, 2), size=target, mode=interpolation, antialias=True
    )
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def _side(given: int | Mapping[str, int]) -> int:
    if isinstance(given, int):
        return given
    if "shortest_edge" in given:
        return given["shortest_edge"]
    if given["height"] != given["width"]:
        raise ValueError("not a square")
    return given["height"]


def _triple(given: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in given)
    return red, green, blue
