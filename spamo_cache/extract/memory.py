"""When memory is full: one clear error, whichever library noticed first."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spamo_cache.errors import SpamoError

_SIGNS = ("can't allocate memory", "out of memory", "std::bad_alloc", "Insufficient memory")


def is_full(error: BaseException) -> bool:
    """Whether this is a library's way of saying that there is no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch on a CPU, OpenCV and others tell it in words only.
    return isinstance(error, Exception) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def explained(partition: int, device: str) -> Iterator[None]:
    """Turn running out of memory into an error that says where, and what to do about it.

    Raises:
        SpamoError: in place of whatever was raised.
    """
    try:
        yield
    except SpamoError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        where = f"partition {partition}, on {platform.node()}"
        if isinstance(error, torch.OutOfMemoryError):
            raise SpamoError(
                f"the memory of {device} is full",
                where=where,
                remedy="end what else runs on that GPU (see nvidia-smi), or choose another one by "
                "--device cuda:N; then give the same command again: what is finished is kept",
            ) from error
        raise SpamoError(
            "out of memory",
            where=where,
            remedy="use fewer --workers or smaller store.shard_rows.frame, or a machine with more "
            "memory; then give the same command again: what is finished is kept",
        ) from error
