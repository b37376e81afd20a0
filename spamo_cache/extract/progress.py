"""How far an extraction is: reports of tasks in, one running total out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from spamo_cache.extract.worker import TaskProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an extraction is."""

    stage: Literal["probe", "extract"]
    clips: int
    """Done so far; of those, ``failures`` without features."""
    clips_total: int
    frames: int = 0
    frames_total: int = 0
    failures: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    """Clips that failed since the last report, each with its reason."""
    scheduler: str = ""
    """Address of the Dask scheduler, where there is one."""
    dashboard: str = ""
    """Address of the Dask dashboard, where there is one."""
    waiting_for: Sequence[str] = ()
    """Who computes all that is left, ``user on host since time`` each; nobody while this
    extraction has something to do itself."""


class Tracker:
    """Sums up the progress of tasks and passes it on; reports may come from any thread."""

    def __init__(self, progress: Callable[[Progress], None] | None, clips: int) -> None:
        self._progress, self._clips = progress, clips
        self._lock = Lock()
        self._last: dict[str, tuple[int, int]] = {}
        self._sum = 0, 0
        self._failed: set[str] = set()
        self._total = 0, 0
        self._waiting: tuple[str, ...] = ()
        self._scheduler = self._dashboard = ""

    def probed(self, clips: int) -> None:
        if self._progress is not None:
            self._progress(Progress(stage="probe", clips=clips, clips_total=self._clips))

    def begin(self, clips: int, frames: int) -> None:
        """Announce what there is to do."""
        self._total = clips, frames
        if clips and self._progress is not None:
            self._emit({})

    def advance(self, step: TaskProgress) -> None:
        if self._progress is None:
            return
        with self._lock:
            # A task begun again, after a worker's death, is not counted twice.
            last = self._last.get(step.task, (0, 0))
            news = {clip: why for clip, why in step.failed.items() if clip not in self._failed}
            if (step.clips, step.frames) == last and not news:
                return
            self._last[step.task] = step.clips, step.frames
            self._sum = self._sum[0] + step.clips - last[0], self._sum[1] + step.frames - last[1]
            self._failed.update(news)
            self._waiting = ()
            self._emit(news)

    def cluster(self, scheduler: str, dashboard: str) -> None:
        """Announce who deals out the work, and where it can be watched."""
        with self._lock:
            self._scheduler, self._dashboard = scheduler, dashboard
            self._emit({})

    def waiting(self, holders: Iterable[str]) -> None:
        """Announce who computes what is left."""
        with self._lock:
            self._waiting = tuple(sorted(holders))
            self._emit({})

    def _emit(self, news: Mapping[str, str]) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    stage="extract",
                    clips=self._sum[0],
                    clips_total=self._total[0],
                    frames=self._sum[1],
                    frames_total=self._total[1],
                    failures=len(self._failed),
                    failed=news,
                    scheduler=self._scheduler,
                    dashboard=self._dashboard,
                    waiting_for=self._waiting,
                )
            )
