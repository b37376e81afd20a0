"""The encoders there are, and how a stream of a cache spec becomes one of them.

A further kind of stream is one config model (``config/spec.py``), one subclass of ``Encoder`` and
one line in :func:`_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from spamo_cache.config import StreamSpec
from spamo_cache.encoders import weights
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import SpamoError, UsageError, WeightsError, shortage

Compute = Literal["auto", "float32", "bfloat16", "float16"]

SEMANTICS = 1
"""Version of what the encoders compute; a change that moves features beyond rounding raises it."""

_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Tokens per batch. Part of what decides a feature's last bit, so never a user's setting."""


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
    with _blaming(stream.weights):
        encoder = _kinds()[stream.encoder](stream, base)
    if weights.local(stream.weights, base) is None:
        weights.pin(_pin_name(stream), encoder.weights_sha256)
    encoder.to(device)
    # Pixels are normalised and enlarged in float32, whatever the network computes in.
    encoder.network.to(_dtype(compute, device))
    return encoder


def batch_rows(encoder: Encoder, device: str) -> int:
    """Rows per forward pass: a fixed number of tokens, the same on every machine of a kind."""
    return max(1, _TOKENS[torch.device(device).type] // encoder.tokens_per_row)


def usual_flops(device: str, cores: int) -> float:
    """Operations per second to expect, for estimates: a data-centre GPU in half precision, or CPU
    cores in float32."""
    return 4e14 if torch.device(device).type == "cuda" else 6e10 * cores


def resolve_device(name: str) -> str:
    """``auto`` -> ``cuda`` where there is one, else ``cpu``.

    Raises:
        UsageError: an unknown device, or a GPU that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in _TOKENS:
        raise UsageError(f"unknown device {name!r}", remedy="use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", remedy="use --device cpu")
    return name


def resolve_compute(compute: Compute, device: str) -> Compute:
    """The arithmetic ``auto`` means on ``device``."""
    if compute != "auto":
        return compute
    return "float16" if torch.device(device).type == "cuda" else "float32"


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Whatever the libraries raise over a folder that is not what it should be is one error."""
    try:
        yield
    except SpamoError:
        raise
    except Exception as error:
        if shortage(error) is not None:
            raise
        raise WeightsError(
            f"cannot be used: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}",
            where=name,
            remedy="take the files as they were published",
        ) from error


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
