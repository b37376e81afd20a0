"""Imports of torchvision's dependents that survive a torchvision without its compiled part.

The wheel of torchvision that stands beside a CPU build of torch is often the CUDA one: its
compiled library does not load, and merely importing it fails because it describes operators that
nobody declared. Nothing here calls those operators, so declaring their signatures is enough.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_UNDECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def ensure_torchvision() -> Any:
    """Make ``import torchvision`` work; call it before importing open_clip or transformers.

    Returns:
        What keeps the declarations alive, or None where torchvision is whole or absent.
    """
    import torch

    try:
        import torchvision
    except ModuleNotFoundError:
        return None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for signature in _UNDECLARED:
        library.define(signature)
    import torchvision  # noqa: F401

    return library


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' loading bars and reports off the terminal; errors still raise."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
