"""How far a run is: reports of workers in, one running total out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from spamo_cache.extract.job import Advance, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, for whoever draws it."""

    stage: Literal["probe", "extract"]
    clips: int
    """Done so far; of those, ``failures`` without features."""
    clips_total: int
    frames: int = 0
    frames_total: int = 0
    failures: int = 0


class Tracker:
    """Sums what workers report and passes it on; reports may come from any thread."""

    def __init__(self, progress: Callable[[Progress], None] | None, clips: int) -> None:
        self._progress, self._clips = progress, clips
        self._lock = Lock()
        self._sum = [0, 0, 0]
        self._total = 0, 0

    def probed(self, clips: int) -> None:
        if self._progress is not None:
            self._progress(Progress(stage="probe", clips=clips, clips_total=self._clips))

    def begin(self, tasks: Sequence[Task]) -> None:
        items = [item for task in tasks for item in task.items]
        self._total = len(items), sum(item.probe.frames for item in items)
        if items:
            self.advance(Advance(0, 0, 0))

    def advance(self, step: Advance) -> None:
        if self._progress is None:
            return
        with self._lock:
            steps = (step.clips, step.frames, int(step.failures))
            self._sum = [a + b for a, b in zip(self._sum, steps, strict=True)]
            clips, frames, failures = self._sum
            self._progress(
                Progress(
                    stage="extract",
                    clips=clips,
                    clips_total=self._total[0],
                    frames=frames,
                    frames_total=self._total[1],
                    failures=failures,
                )
            )
