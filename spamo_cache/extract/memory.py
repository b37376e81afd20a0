"""When memory is full or no thread is left: one clear error, whichever library noticed first."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spamo_cache.errors import SpamoError, shortage

_AGAIN = "then give the same command again: what is finished is kept"


def is_full(error: BaseException) -> bool:
    """Whether this is a library's way of saying that the system gives no more."""
    return isinstance(error, torch.OutOfMemoryError) or shortage(error) is not None


@contextmanager
def explained(partition: int | None = None, device: str = "cpu") -> Iterator[None]:
    """Turn running out of memory or threads into an error that says where, and what to do.

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
        on = f"on {platform.node()}"
        where = on if partition is None else f"partition {partition}, {on}"
        if isinstance(error, torch.OutOfMemoryError):
            raise SpamoError(
                f"the memory of {device} is full",
                where=where,
                remedy="end what else runs on that GPU (see nvidia-smi), or choose another one by "
                f"--device cuda:N; {_AGAIN}",
            ) from error
        raise SpamoError(
            shortage(error) or "out of memory",
            where=where,
            remedy="use fewer --workers or smaller store.shard_rows.frame, a machine with more "
            f"memory, or higher limits (ulimit -a); {_AGAIN}",
        ) from error
