"""How slow an answer of a server may be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT_SECONDS = 60.0
"""Between two bytes."""
_GRACE_SECONDS = 30.0
_SLOWEST_BYTES = 4096
"""A second, beyond the grace; a modem's rate."""


def too_slow() -> TimeoutError:
    """What is raised of an answer that does not come, or not fast enough."""
    return TimeoutError(f"it sends less than {_SLOWEST_BYTES} bytes a second")


class Pace:
    """How long an answer may still take; time counts while it is waited for."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._bytes = 0

    def left(self) -> float:
        """Seconds until the next byte has to be there.

        Raises:
            TimeoutError: the answer is too slow already.
        """
        left = _GRACE_SECONDS + self._bytes / _SLOWEST_BYTES - self._waited
        if left <= 0:
            raise too_slow()
        return min(left, SILENT_SECONDS)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[int], None]]:
        """Count the time of the block, and the bytes that it calls the given function with."""
        started = time.monotonic()
        try:
            yield self._count
        finally:
            self._waited += time.monotonic() - started

    def _count(self, count: int) -> None:
        self._bytes += count
