"""What training takes: seconds per step, and the most memory at once."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch


class Effort:
    """Counted from its making on; the steps are those of the latest stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps, self._seconds, self._since = 0, 0.0, time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Linux forgets the peak of what this process did before.
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def begin(self) -> None:
        """A stage begins."""
        self.steps, self._seconds = 0, 0.0
        self.skip()

    def step(self) -> None:
        """A step is over, and what was logged and saved since the one before."""
        now = time.perf_counter()
        self.steps, self._seconds = self.steps + 1, self._seconds + now - self._since
        self._since = now

    def skip(self) -> None:
        """The time since the last step counts for none."""
        self._since = time.perf_counter()

    @property
    def step_seconds(self) -> float | None:
        """Mean wall time; None without a step."""
        return self._seconds / self.steps if self.steps else None

    @property
    def peak_bytes(self) -> int:
        """Of the GPU what torch allocated, of a CPU what the process held."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        status = Path("/proc/self/status")
        if status.exists():
            # Not ru_maxrss: a child's begins with its parent's, and cannot be reset.
            return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
