"""From decoded frames to an encoder's input: resize, centre crop, and later normalise.

Resizing is done once per distinct :class:`ResizeSpec` and kept as uint8, so that encoders of equal
sizes share it and a quarter of the bytes travel; normalising happens on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from spamo_cache import checkpoints
from spamo_cache.compat import declare_torchvision_ops, quiet
from spamo_cache.errors import WeightsError

Resize = Literal["torchvision-uint8", "pil"]
Interpolation = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]

_PIL = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_RESAMPLE: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
_REMEDY = "take the preprocessor_config.json published with the weights"
_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeSpec:
    """How a frame of any size becomes a square one."""

    size: int
    """Side of the encoder's input, pixels."""
    shortest: int | None
    """Short side the frame is resized to before the centre crop; None squashes it to a square."""
    interpolation: Interpolation


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Size and normalisation as the weights' authors prescribe them."""

    resize_spec: ResizeSpec
    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        if not all(0 < value < float("inf") for value in self.std):
            raise ValueError(f"a standard deviation of {self.std}")

    def describe(self) -> dict[str, Any]:
        """Everything that moves a feature, for the weights' hash."""
        spec = self.resize_spec
        return {
            "size": spec.size,
            "shortest": spec.shortest,
            "interpolation": spec.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def from_folder(folder: Path, *, size: int | None = None) -> Preprocess:
    """What the image or video processor of a Hugging Face folder does, class defaults included.

    Args:
        size: side of the encoder's input, pixels; None where any will do.

    Raises:
        WeightsError: no processor, or one that cannot be followed exactly.
    """
    declare_torchvision_ops()
    from transformers import AutoImageProcessor, AutoVideoProcessor

    images = folder / "preprocessor_config.json"
    of_videos = not images.is_file()
    where = folder / "video_preprocessor_config.json" if of_videos else images
    kind: Any = AutoVideoProcessor if of_videos else AutoImageProcessor
    with checkpoints.explained(where, "no usable image processor", _REMEDY), quiet():
        processor = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        given = processor.to_dict()
    return from_processor(given, where=where, size=size)


def from_processor(
    given: Mapping[str, Any], *, where: object, size: int | None = None
) -> Preprocess:
    """Read what a Hugging Face ``preprocessor_config.json`` holds.

    Args:
        given: the file's entries; those left out mean what CLIP's and VideoMAE's processors mean.
        where: the file, for errors.
        size: side of the encoder's input, pixels; None where any will do.

    Raises:
        WeightsError: something is missing, wrong, or cannot be done here exactly.
    """
    try:
        return _from_processor(given, size)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"no usable image processor ({type(error).__name__}: {error})",
            where=where,
            remedy=_REMEDY,
        ) from None


def _from_processor(given: Mapping[str, Any], size: int | None) -> Preprocess:
    asked = {name for name, value in given.items() if name.startswith("do_") and value}
    if unknown := sorted(asked - _STEPS) + [name for name in ("crop_pct",) if given.get(name)]:
        raise ValueError(f"{unknown[0]} is not supported")
    if not given.get("do_resize", True):
        raise ValueError("do_resize: false gives frames of any size")
    resized = given["size"]
    shortest = resized if isinstance(resized, int) else resized.get("shortest_edge")
    if shortest is None:
        side = _side(given["crop_size"] if given.get("do_center_crop") else resized)
        if _side(resized) != side:
            raise ValueError(f"squashes frames to {_side(resized)} px and crops {side} px of them")
    elif given.get("do_center_crop", True):
        side = _side(given.get("crop_size", size or shortest))
    else:
        raise ValueError("do_center_crop: false gives frames that are no squares")
    if size not in (None, side) or side > (shortest or side):
        raise ValueError(f"crops {side} px of {shortest or side} px for an encoder of {size} px")
    mean, std = _normalisation(given)
    return Preprocess(
        resize_spec=ResizeSpec(
            size=side, shortest=shortest, interpolation=_RESAMPLE[given.get("resample", 2)]
        ),
        mean=mean,
        std=std,
    )


def _normalisation(given: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Mean and std of pixels divided by 255, whatever the processor divides them by."""
    if given.get("do_normalize", True):
        mean, std = _triple(given["image_mean"]), _triple(given["image_std"])
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
    if abs(factor - 1 / 255) < 1e-12 and not given.get("offset"):
        return mean, std
    # x * factor - offset, then (x - mean) / std: one linear map again.
    offset, scale = 1.0 if given.get("offset") else 0.0, 255.0 * factor
    return _triple((m + offset) / scale for m in mean), _triple(s / scale for s in std)


def from_open_clip(given: Mapping[str, Any], *, size: int) -> Preprocess:
    """Read open_clip's ``preprocess_cfg`` (of a tag or an ``open_clip_config.json``)."""
    import open_clip

    mode = given.get("resize_mode", "shortest")
    interpolation = given.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or interpolation not in _PIL:
        raise WeightsError(f"open_clip preprocessing {mode}/{interpolation} is not supported")
    return Preprocess(
        resize_spec=ResizeSpec(
            size=size,
            shortest=size if mode == "shortest" else None,
            interpolation=interpolation,
        ),
        mean=_triple(given.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=_triple(given.get("std", open_clip.OPENAI_DATASET_STD)),
    )


def prepare(frames_thwc: NDArray[np.uint8], spec: ResizeSpec, resize: Resize) -> torch.Tensor:
    """Resize and centre-crop frames, staying in uint8.

    Args:
        frames_thwc: (frames, height, width, 3) RGB.
        spec: what the encoder wants.
        resize: ``pil`` equals the official processors bit for bit; ``torchvision-uint8`` differs
            from it by at most 2 of 255 levels and is 6-12 times faster.

    Returns:
        uint8 (frames, 3, size, size), channels last in memory.
    """
    whole = np.require(squares(frames_thwc, spec, resize), requirements=("C", "W"))
    return torch.from_numpy(whole).permute(0, 3, 1, 2)


def squares(frames_thwc: NDArray[np.uint8], spec: ResizeSpec, resize: Resize) -> NDArray[np.uint8]:
    """As :func:`prepare`: (frames, size, size, 3), a view into something larger or the input."""
    _, height, width, _ = frames_thwc.shape
    target = resized(height, width, spec)
    if target != (height, width):
        scale = _resize_pil if resize == "pil" else _resize_torch
        frames_thwc = scale(frames_thwc, target, spec.interpolation)
    top, left = ((side - spec.size) // 2 for side in target)
    return frames_thwc[:, top : top + spec.size, left : left + spec.size]


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


def resized(height: int, width: int, spec: ResizeSpec) -> tuple[int, int]:
    """Height and width of a frame before the centre crop."""
    short = spec.shortest
    if short is None:
        return spec.size, spec.size
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
    if given["height"] != given["width"]:
        raise ValueError("not a square")
    return given["height"]


def _triple(given: Iterable[Any]) -> Triple:
    red, green, blue = (float(value) for value in given)
    return red, green, blue
