"""The device to compute on: one reading of its name for every command and function."""

from __future__ import annotations

import os
import re

from spamo_cache.errors import UsageError


def check(name: str) -> str:
    """``name`` itself, once it is known that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` is there.

    Raises:
        UsageError: another word, or a GPU that this machine does not have.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]+))?", name)
    if match is None:
        raise UsageError(f"unknown device {name!r}", remedy="use auto, cpu, cuda or cuda:N")
    if not name.startswith("cuda"):
        return name
    # Not at the top: the help of a command would wait for torch.
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", remedy="use --device cpu")
    count = torch.cuda.device_count()
    if match[1] is not None and int(match[1]) >= count:
        raise UsageError(
            f"no CUDA device {match[1]}", remedy=f"use cuda:N with N from 0 to {count - 1}"
        )
    return name


def resolve(name: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is the GPU where there is one.

    Raises:
        UsageError: as :func:`check`.
    """
    if check(name) != "auto":
        return name
    import torch  # noqa: PLC0415

    return "cuda" if torch.cuda.is_available() else "cpu"


def cpu_cores() -> int:
    """Cores this process may use; a container or a batch system may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
