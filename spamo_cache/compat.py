"""What has to be put right about the libraries below: their imports, noise and threads."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

_ops: Any = torch.ops
_library: Any = torch.library


@cache
def declare_torchvision_ops() -> Any:
    """Let torchvision import where its compiled operators do not fit the installed torch.

    A CPU build of torch beside a CUDA build of torchvision is a common pair; torchvision then
    fails at import over the missing ``nms``, and takes transformers with it. Neither stage uses
    that operator, so declaring its name is enough. Call before importing transformers.

    Returns:
        The declaring library, kept alive by the cache; None where nothing had to be done.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return None
    library = _library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _loads(package: Path) -> bool:
    """Whether the operators are there, declared earlier or in torchvision's compiled part."""
    if hasattr(_ops.torchvision, "nms"):
        return True
    for compiled in package.glob("_C*"):
        try:
            _ops.load_library(str(compiled))
        except OSError:
            return False
    return hasattr(_ops.torchvision, "nms")


@contextmanager
def some_home() -> Iterator[None]:
    """Let nltk import where the system knows no home (a container's number without a name).

    It looks for a place for downloads there, of which nothing here makes any.
    """
    if os.path.expanduser("~") != "~":  # noqa: PTH111 (Path's raises)
        yield
        return
    os.environ["HOME"] = os.devnull
    try:
        yield
    finally:
        del os.environ["HOME"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' loading bars and reports off the terminal; errors still raise."""
    # Not at the top: this module has to be imported before transformers is.
    from transformers.utils import logging  # noqa: PLC0415

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def checkpoint_activations(model: Any) -> None:
    """Let a transformers model, LoRA or not, compute its activations anew on the way back."""
    plain = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(plain)
    else:
        # Its name in older releases; newer ones warn of it.
        model.gradient_checkpointing_enable(plain)


def avoid_cudnn_attention() -> None:
    """Keep this process from cuDNN's attention, which torch takes first on an H100 or a B200.

    It plans anew for every shape that it meets, half a second each way, and in training and
    decoding nearly every batch and every token has a new one. Extraction, whose batches are all of
    one shape, asks for it where it wants it.
    """
    # For good, not around a forward pass: checkpointing computes it again on the way back.
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with ``count`` threads inside the block; None leaves torch's own choice.

    The number of threads changes the last bits of sums, so a fixed one makes runs equal on
    machines of different sizes; and a small model on a busy machine is many times slower with
    several, which wait for each other at every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
