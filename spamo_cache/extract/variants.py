"""Features as they would be, had they been made otherwise: on a few rows of a few clips.

What others may have chosen differently is tried one by one: layer, token, resizing, colours,
frames, windows, arithmetic. Where one choice explains a part of the differences, it is tried
together with each of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from spamo_cache.config import NetworkStream
from spamo_cache.encoders.encoder import Encoder, stack_windows, window
from spamo_cache.encoders.preprocess import (
    Interpolation,
    Normalise,
    Resize,
    ResizeSpec,
    Triple,
    prepare,
    resized,
)
from spamo_cache.encoders.registry import Compute, build
from spamo_cache.errors import SpamoError
from spamo_cache.store.compare import NEAR, Cause, Rows, judge, ranked, rows_of

_ROWS = 4
"""Of each clip."""
_LAYERS = 6
_STRIDES = 32
_STEPS = (2, 3, 4)
_PLACEMENTS = 12
_HELPS = 0.7
"""What one choice has to leave at most of the difference to be tried together with others."""

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NORMALISATIONS = {"CLIP": _CLIP, "ImageNet": _IMAGENET, "0.5": _HALF}


@dataclass(frozen=True, slots=True)
class Seen:
    """One clip of the sample.

    Attributes:
        frames: uint8 (frames, height, width, 3) RGB; the first ones where it is long.
        count: frames of the whole clip.
        theirs: (rows, width), all of the clip.
        ours: likewise, as the store has them.
    """

    frames: NDArray[np.uint8]
    count: int
    theirs: Rows
    ours: Rows


@dataclass(frozen=True, slots=True)
class Recipe:
    """How rows are made of frames.

    Attributes:
        spec: how frames become squares; None is the encoder's own.
        antialias: whether resizing looks at all pixels.
        bgr: whether colours stand in the order of OpenCV.
        normal: mean and std of pixels; None is the encoder's own.
        first: frames left out at the beginning.
        step: every n-th frame is taken.
    """

    stream: NetworkStream
    resize: Resize
    compute: Compute
    spec: ResizeSpec | None = None
    antialias: bool = True
    bgr: bool = False
    normal: tuple[Triple, Triple] | None = None
    first: int = 0
    step: int = 1

    def with_(self, other: Alternative) -> Recipe:
        """The recipe, but for what the alternative changes."""
        stream = self.stream.model_copy(update=dict(other.stream))
        return replace(self, stream=stream, **other.changes)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Something that others may have chosen differently."""

    kind: str
    what: str
    stream: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)


# --- the alternatives -----------------------------------------------------------------------------


def alternatives(
    base: Recipe, own: Encoder, lengths: Sequence[tuple[int, int]]
) -> list[Alternative]:
    """All that is tried, those of one network together.

    Args:
        base: how the store's rows were made.
        own: its encoder.
        lengths: frames of clips, and rows that theirs have: they decide which strides can be.
    """
    return [
        *_placements(base, own, lengths),
        *_pixels(base, own),
        *_precisions(base),
        *_outputs(base.stream),
        *_layers(base.stream),
    ]


_OUTPUTS = {
    "cls-pre-norm": "the class token before the last layer norm",
    "cls": "the class token after the last layer norm",
    "mean": "the mean of the patches",
    "embedding": "the projected embedding",
    "pooler": "the network's own pooler",
    0: "the first token",
}


def _outputs(stream: NetworkStream) -> Iterator[Alternative]:
    offered: dict[str, tuple[str, tuple[Any, ...]]] = {
        "open_clip": ("output", ("cls-pre-norm", "cls", "mean", "embedding")),
        "videomae": ("token", (0, "mean")),
        "transformers": ("output", ("cls", "mean", "pooler")),
    }
    key, values = offered[stream.encoder]
    own = getattr(stream, key)
    for value in values:
        if value == own:
            continue
        what = f"theirs are {_OUTPUTS[value]}, the store's {_OUTPUTS[own]}"
        norms = {value, own} == {"cls", "cls-pre-norm"}
        kind = "layer-norm" if norms else "output" if value in ("embedding", "pooler") else "token"
        yield Alternative(kind, f"{kind.replace('-', ' ')}: {what}", {key: value})


def _layers(stream: NetworkStream) -> Iterator[Alternative]:
    own = stream.layer
    if stream.encoder == "transformers" and own is None:
        what = "layer norm: theirs are before the network's last layer norm, the store's after it"
        yield Alternative("layer-norm", what, {"layer": -1})
    for layer in range(-1, -_LAYERS - 1, -1):
        if layer != own and not (layer == -1 and own is None):
            what = f"another layer: theirs are of layer {layer}"
            yield Alternative(
                "layer", f"{what}, the store's of layer {own or 'last'}", {"layer": layer}
            )


def _precisions(base: Recipe) -> Iterator[Alternative]:
    for compute in ("float32", "bfloat16", "float16"):
        if compute != base.compute:
            what = f"precision: theirs were computed in {compute}, the store's in {base.compute}"
            yield Alternative("precision", what, changes={"compute": compute})


def _pixels(base: Recipe, own: Encoder) -> Iterator[Alternative]:
    spec = own.preprocess.resize_spec
    yield Alternative("channels", "channels: theirs are of BGR pictures", changes={"bgr": True})
    other = "pil" if base.resize != "pil" else "torchvision-uint8"
    yield Alternative("resize", f"another resize: theirs by {other}", changes={"resize": other})
    yield Alternative(
        "resize", "another resize: theirs without antialiasing (OpenCV, or torch's default)",
        changes={"antialias": False},
    )  # fmt: skip
    mode: Interpolation = "bilinear" if spec.interpolation == "bicubic" else "bicubic"
    for antialias in (True, False):
        words = "" if antialias else ", without antialiasing"
        yield Alternative(
            "resize", f"another resize: theirs are {mode}, not {spec.interpolation}{words}",
            changes={"spec": replace(spec, interpolation=mode), "antialias": antialias},
        )  # fmt: skip
    larger = round(spec.size * 256 / 224)
    for what, shortest in (
        (f"squashed to {spec.size}x{spec.size}", None),
        (f"short side to {spec.size}, centre crop", spec.size),
        (f"short side to {larger}, centre crop of {spec.size}", larger),
    ):
        if shortest != spec.shortest:
            yield Alternative(
                "crop", f"another crop: theirs are {what}",
                changes={"spec": replace(spec, shortest=shortest)},
            )  # fmt: skip
    for name, normal in _NORMALISATIONS.items():
        given = own.preprocess.mean, own.preprocess.std
        if not np.allclose(normal, given, atol=1e-3):
            yield Alternative(
                "normalisation", f"normalisation: theirs by mean and deviation of {name}",
                changes={"normal": normal},
            )  # fmt: skip


def _placements(
    base: Recipe, own: Encoder, lengths: Sequence[tuple[int, int]]
) -> Iterator[Alternative]:
    """Other strides, tails and frame rates that give as many rows as theirs; and offsets."""
    found = []
    steps = (1, *_STEPS) if own.span > 1 else (1,)
    tails = ("drop", "pad") if hasattr(base.stream, "tail") else (None,)
    for step in steps:
        for stride in range(1, _STRIDES + 1):
            for tail in tails:
                placed = {"stride": stride} | ({} if tail is None else {"tail": tail})
                same = all(getattr(base.stream, key) == value for key, value in placed.items())
                if (same and step == 1) or not _fits(base, own, lengths, placed, step):
                    continue
                found.append(_placed(base, placed, step))
    # Those that change least come first.
    found.sort(key=lambda one: len(one.what))
    yield from found[:_PLACEMENTS]
    for first in range(1, max(base.stream.stride, 4)):
        what = f"frame offset: theirs begin {first} frame{'s' * (first > 1)} later"
        yield Alternative("offset", what, changes={"first": first})


def _placed(base: Recipe, placed: Mapping[str, Any], step: int) -> Alternative:
    words = []
    kind = "tail"
    if placed.get("tail", getattr(base.stream, "tail", None)) != getattr(base.stream, "tail", None):
        after = "padded to one more row" if placed["tail"] == "pad" else "dropped"
        words.append(f"tail policy: frames after their last full window are {after}")
    if placed["stride"] != base.stream.stride:
        kind = "stride"
        words.append(f"another stride: {placed['stride']}, not {base.stream.stride}")
    if step > 1:
        kind = "frame-rate"
        words.append(f"another frame rate: theirs took every {_ordinal(step)} frame")
    return Alternative(kind, "; ".join(words), placed, {"step": step} if step > 1 else {})


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _fits(
    base: Recipe,
    own: Encoder,
    lengths: Sequence[tuple[int, int]],
    placed: Mapping[str, Any],
    step: int,
) -> bool:
    """Whether every clip would have as many rows as theirs."""
    own.place_rows(base.stream.model_copy(update=dict(placed)))
    fits = all(own.rows(-(-frames // step)) == rows for frames, rows in lengths)
    own.place_rows(base.stream)
    return fits


# --- trying them ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trials:
    """What the videos tell.

    Attributes:
        reproduced: relative error of the store's own rows, made again.
        apart: relative error of theirs, against these rows.
        cosine: likewise.
        rows: how many rows were looked at.
        tried: every alternative that the network has, as :func:`compare.ranked` orders them.
    """

    reproduced: float
    apart: float = 1.0
    cosine: float = 0.0
    rows: int = 0
    tried: Sequence[Cause] = ()


class _RowMaker:
    """Makes rows by recipes; networks are kept while they are used."""

    def __init__(self, clips: Sequence[Seen], base: Path, device: str) -> None:
        self._clips, self._device = clips, device
        self.encoder = lru_cache(maxsize=2)(
            lambda stream, compute: build(stream, base, compute, device)
        )

    def rows(self, recipe: Recipe, wanted: Callable[[Seen], Rows]) -> list[tuple[Rows, Rows]]:
        """Rows made by the recipe, and as ``wanted`` has them, to which errors are relative."""
        fixed = recipe.stream.model_copy(update=_still(recipe.stream))
        encoder = self.encoder(fixed, recipe.compute)
        encoder.place_rows(recipe.stream)
        own = encoder.preprocess
        mean, std = recipe.normal or (own.mean, own.std)
        encoder.normalise = Normalise(replace(own, mean=mean, std=std)).to(self._device)
        made = [self._of_clip(encoder, recipe, clip, wanted(clip)) for clip in self._clips]
        return [pair for pair in made if pair is not None]

    def _of_clip(
        self, encoder: Encoder, recipe: Recipe, clip: Seen, wanted: Rows
    ) -> tuple[Rows, Rows] | None:
        frames = clip.frames[recipe.first :: recipe.step]
        whole = len(clip.frames) == clip.count
        starts = [
            start
            for start in list(encoder.starts(len(frames)))[: len(wanted)]
            # Of a clip that is not here as a whole, windows at its end are not what they were.
            if whole or start + encoder.span <= len(frames)
        ]
        if not starts:
            return None
        chosen = sorted({(2 * k + 1) * len(starts) // (2 * _ROWS) for k in range(_ROWS)})
        windows = []
        for row in chosen:
            under = frames[starts[row] : starts[row] + encoder.span]
            windows.append(window(_prepared(under, recipe, encoder), 0, encoder.span))
        pixels = stack_windows(windows, encoder.span).to(self._device)
        step = encoder.batch_rows(self._device)
        made = [encoder.encode(part) for part in pixels.split(step)]
        return rows_of(torch.cat(made).cpu().numpy()), wanted[chosen]


def _still(stream: NetworkStream) -> dict[str, Any]:
    """What places rows, as it is in no recipe: networks of equal rows are one."""
    still = {"stride": 1, "phase": 0, "tail": "drop"}
    return {key: value for key, value in still.items() if hasattr(stream, key)}


def _prepared(frames: NDArray[np.uint8], recipe: Recipe, encoder: Encoder) -> torch.Tensor:
    spec = recipe.spec or encoder.preprocess.resize_spec
    if recipe.bgr:
        frames = np.ascontiguousarray(frames[..., ::-1])
    return prepare(frames, spec, recipe.resize) if recipe.antialias else _coarse(frames, spec)


def _coarse(frames: NDArray[np.uint8], spec: ResizeSpec) -> torch.Tensor:
    """As :func:`prepare`, but of shrunk pictures most pixels are passed over."""
    _, height, width, _ = frames.shape
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    target = resized(height, width, spec)
    mode = spec.interpolation
    scaled = functional.interpolate(pixels, size=target, mode=mode, align_corners=False)
    top, left = ((side - spec.size) // 2 for side in target)
    cut = scaled[:, :, top : top + spec.size, left : left + spec.size]
    return cut.round().clamp(0, 255).to(torch.uint8)


def explain(
    clips: Sequence[Seen],
    recipe: Recipe,
    base: Path,
    *,
    lengths: Sequence[tuple[int, int]],
    device: str = "cpu",
    progress: Callable[[int, int], object],
) -> Trials:
    """Make rows of the sample in every way that is known, and see which are theirs.

    Args:
        clips: at least one.
        recipe: how the store's rows were made.
        base: folder of the spec's file, where relative weights stand.
        lengths: see :func:`alternatives`.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        progress: told how many alternatives are done, of how many.

    Raises:
        ConfigError, WeightsError: the store's own network cannot be loaded.
    """
    maker = _RowMaker(clips, base, device)
    reproduced, _ = judge(maker.rows(recipe, lambda clip: clip.ours))
    if reproduced > NEAR:
        return Trials(reproduced)
    own = maker.encoder(recipe.stream.model_copy(update=_still(recipe.stream)), recipe.compute)
    own.place_rows(recipe.stream)
    pairs = maker.rows(recipe, lambda clip: clip.theirs)
    alike = all(clip.theirs.shape == clip.ours.shape for clip in clips)
    apart, cosine = judge(pairs) if alike else (1.0, 0.0)
    listed = alternatives(recipe, own, lengths)
    tried: list[tuple[Cause, Alternative]] = []
    for done, other in enumerate(listed, 1):
        tried += _try(maker, recipe, other, other.what)
        progress(done, len(listed))
    if tried:
        best, first = min(tried, key=lambda pair: pair[0].error)
        if NEAR < best.error < _HELPS * apart:
            seconds = [other for other in listed if other.kind != first.kind]
            for done, other in enumerate(seconds, 1):
                both = recipe.with_(first)
                tried += _try(maker, both, other, f"{first.what}; {other.what}")
                progress(len(listed) + done, len(listed) + len(seconds))
    rows = sum(len(made) for made, _ in pairs)
    return Trials(reproduced, apart, cosine, rows, ranked([cause for cause, _ in tried]))


def _try(
    maker: _RowMaker, recipe: Recipe, other: Alternative, what: str
) -> list[tuple[Cause, Alternative]]:
    """The alternative as a cause; nothing where the network cannot do it."""
    try:
        pairs = maker.rows(recipe.with_(other), lambda clip: clip.theirs)
    except (SpamoError, RuntimeError, ValueError):
        return []  # no such layer or output, or no such arithmetic on this device
    alike = [(a, b) for a, b in pairs if a.shape == b.shape and np.isfinite(a).all()]
    if not alike:
        return []
    error, cosine = judge(alike)
    return [(Cause(other.kind, what, error, cosine, sum(len(a) for a, _ in alike)), other)]
