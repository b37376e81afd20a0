"""What workers of a local cluster do first."""

from __future__ import annotations

import signal


def dask_setup(_: object) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes at once, to the command itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
