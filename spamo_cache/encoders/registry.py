"""The encoders there are, and how a stream of a cache spec becomes one of them.

A further kind of stream is one config model (``config/spec.py``), one subclass of ``Encoder`` and
one line in :func:`_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from spamo_cache import checkpoints
from spamo_cache.config import PoseStream, StreamSpec
from spamo_cache.encoders import weights
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.points import PoseEncoder

Compute = Literal["auto", "float32", "bfloat16", "float16"]

SEMANTICS = 1
"""Version of what the encoders compute; a change that moves features beyond rounding raises it."""


def build(
    stream: StreamSpec, base: Path, compute: Compute = "auto", device: str = "cpu"
) -> Encoder:
    """Load the encoder of a stream, ready on ``device``.

    Args:
        stream: a stream of a cache spec.
        base: folder of the spec's file, where relative weights stand.
        compute: arithmetic of the network; ``auto`` is float16 on a GPU and float32 on a CPU.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: the spec asks for something the network does not have.
        WeightsError: missing, incomplete, changed or unsuitable weights.
    """
    if isinstance(stream, PoseStream):
        return PoseEncoder(stream)
    with checkpoints.explained(stream.weights):
        encoder = _kinds()[stream.encoder](stream, base)
    if weights.local(stream.weights, base) is None:
        weights.pin(_pin_name(stream), encoder.weights_sha256)
    encoder.to(device)
    # Pixels are normalised and enlarged in float32, whatever the network computes in.
    encoder.network.to(_dtype(compute, device))
    return encoder


def outline(stream: StreamSpec, base: Path) -> Encoder:
    """The encoder of a stream without its network: how it prepares frames and places its rows.

    Reads the configuration beside the weights; the weights themselves need not be there.

    Args:
        stream: a stream of a cache spec.
        base: folder of the spec's file.

    Raises:
        ConfigError: an unknown model or tag.
        WeightsError: no configuration, or one that cannot be followed exactly.
    """
    from spamo_cache.encoders import openclip, preprocess

    if isinstance(stream, PoseStream):
        return PoseEncoder(stream)
    encoder = Encoder()
    with checkpoints.explained(stream.weights):
        if stream.encoder == "open_clip":
            encoder.preprocess = openclip.preprocess_of(stream, base)
        else:
            path = weights.locate(stream.weights, base, configs_only=True)
            encoder.preprocess = preprocess.from_folder(weights.folder_of(path))
    encoder.place_rows(stream)
    return encoder


def without_weights(stream: StreamSpec, base: Path) -> Encoder | None:
    """What can be said of a stream's encoder without its weights; None where they are there.

    Fetches nothing, unlike :func:`outline`.

    Args:
        stream: a stream of a cache spec.
        base: folder of the spec's file.

    Returns:
        An encoder that places rows and computes nothing. Its width and its cost are 0 where they
        are not known, its hash is empty where nothing has recorded it.
    """
    from spamo_cache.encoders.unloaded import unloaded

    if isinstance(stream, PoseStream):
        return None
    with checkpoints.explained(stream.weights):
        return unloaded(stream, base, _pin_name(stream))


def resolve_compute(compute: Compute, device: str) -> Compute:
    """The arithmetic ``auto`` means on ``device``."""
    if compute != "auto":
        return compute
    return "float16" if torch.device(device).type == "cuda" else "float32"


def _dtype(compute: Compute, device: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, resolve_compute(compute, device))
    return dtype


def _pin_name(stream: StreamSpec) -> str:
    model = getattr(stream, "model", None)
    return f"{stream.encoder}:{model or ''}:{stream.weights}"


def _kinds() -> dict[str, Callable[..., Encoder]]:
    # Imported here: choosing an encoder must not import the other's libraries.
    from spamo_cache.encoders.hugging_face import TransformersEncoder
    from spamo_cache.encoders.motion import MotionEncoder
    from spamo_cache.encoders.spatial import SpatialEncoder

    return {
        "open_clip": SpatialEncoder,
        "transformers": TransformersEncoder,
        "videomae": MotionEncoder,
    }
