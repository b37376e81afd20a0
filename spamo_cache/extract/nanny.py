"""What Dask's nannies run before they start their workers; named by ``--preload-nanny``."""

from __future__ import annotations

from typing import Any


def dask_setup(nanny: Any) -> None:
    """Leave glibc's way with memory to the workers.

    Dask asks it to give free memory back at once, so that a worker's size shows what it holds.
    Frames and batches come and go: a fifth of a worker's time went to the kernel for it.
    """
    nanny.pre_spawn_env.pop("MALLOC_TRIM_THRESHOLD_", None)
