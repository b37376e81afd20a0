"""Trains, tests and analyses runs beside each other, each in a process of a pool.

What is finished is recognised by its identity and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from spamo_cache import human
from spamo_cache.errors import SpamoError
from spamo_cache.runs.analyses import analysis_file
from spamo_cache.runs.attributions import FOLDER
from spamo_cache.workflow.experiments.index import RunLocation, key_of
from spamo_cache.workflow.experiments.plan import TEST, Planned
from spamo_cache.workflow.experiments.processes import Call, ProcessPool, Tell
from spamo_cache.workflow.experiments.tasks import (
    AnalyzeTask,
    AttributeTask,
    EvaluateTask,
    TrainTask,
)
from spamo_cache.workflow.watcher import Advance, Watcher

ATTRIBUTED = 4
"""Clips of an analysed run whose translation is traced to frames."""


class Index(Protocol):
    """Knows where runs lie, and what it takes to train them."""

    def locate(self, run: Planned, start: Path | None) -> RunLocation: ...

    def train_task(
        self, run: Planned, start: Path | None, folder: Path, device: str
    ) -> TrainTask: ...

    def frames_root(self, run: Planned) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        run: as it was planned.
        location: where it lies; None if what it needs was not there.
        reused: it was trained before.
        error: why it is not trained.
        faults: ``key_of`` a test -> why that could not be done.
    """

    run: Planned
    location: RunLocation | None
    reused: bool = False
    error: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The run's folder, if it is trained."""
        return None if self.location is None or self.error else self.location.folder

    @property
    def failed(self) -> bool:
        """It is not trained, or not tested in every way."""
        return bool(self.error or self.faults)


class _Tally:
    """Counts runs that have ended, and tells how far those at work are."""

    def __init__(self, advance: Advance, total: int) -> None:
        self._advance, self._total = advance, total
        self._ended = self._there = self._failed = 0
        self._running: dict[str, Mapping[str, Any]] = {}
        self._tell()

    def teller(self, name: str) -> Tell:
        """What a run's process is to call with its progress."""

        def tell(progress: Mapping[str, Any]) -> None:
            self._running[name] = progress
            self._tell()

        return tell

    def end(self, outcome: RunOutcome) -> None:
        """Count a run."""
        self._running.pop(outcome.run.name, None)
        self._ended += 1
        self._there += outcome.reused
        self._failed += outcome.failed
        self._tell()

    def _tell(self) -> None:
        words = [f"{self._there:,} there already"] if self._there else []
        words += [f"{self._failed:,} failed"] if self._failed else []
        running = self._running.items()
        self._advance(
            self._ended - self._there,
            self._total - self._there,
            note="; ".join([*words, *(progress["words"] for _, progress in running)]),
            figures={
                "there_already": self._there,
                "failures": self._failed,
                "running": {name: progress["event"] for name, progress in running},
            },
        )


class Scheduler:
    """Does what is left of runs, at most as many at a time as its pool has processes.

    Args:
        index: knows where runs lie.
        pool: processes to work in.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watcher: is told what begins, ends and gives cause for a warning.
        store: root of the feature stores; None is the first of ``SPAMO_CACHE``.
    """

    def __init__(
        self,
        index: Index,
        pool: ProcessPool,
        device: str,
        watcher: Watcher,
        store: str | None = None,
    ) -> None:
        self._index, self._pool, self._watcher, self._store = index, pool, watcher, store
        # Where GPUs are dealt out, a process sees its own one alone.
        self._device = device.partition(":")[0]

    async def train(
        self, runs: Mapping[str, Planned], ended: Callable[[RunOutcome], str]
    ) -> dict[str, RunOutcome]:
        """Train and test every run, each after the one that it starts from.

        Args:
            runs: by key, those that others start from first.
            ended: called with every outcome at once; what it returns is told people.
        """
        tasks: dict[str, asyncio.Task[RunOutcome]] = {}
        outcomes: dict[str, RunOutcome] = {}

        async def follow(
            run: Planned, before: Awaitable[RunOutcome] | None, tally: _Tally
        ) -> RunOutcome:
            outcome = await self._one(run, None if before is None else await before, tally)
            outcomes[run.key] = outcome
            text = ended(outcome)
            event = {"event": "run", "run": run.name, "result": text, "failed": outcome.failed}
            self._watcher.notice(f"[{len(outcomes)}/{len(runs)}] {run.name}: {text}", event)
            tally.end(outcome)
            return outcome

        with self._watcher.task("train", human.count(len(runs), "run"), "runs") as advance:
            tally = _Tally(advance, len(runs))
            for key, run in runs.items():
                before = None if run.init_from is None else tasks[run.init_from.key]
                tasks[key] = asyncio.create_task(follow(run, before, tally))
            await asyncio.gather(*tasks.values())
        return outcomes

    async def analyze(self, folders: Iterable[Path], root: Path) -> None:
        """Look into finished runs, and trace some of their translations to frames.

        Args:
            folders: of the runs.
            root: folder of the raw corpus.
        """
        listed = sorted(set(folders))
        with self._watcher.task("analyze", human.count(len(listed), "run")):
            await asyncio.gather(*(self._analyze(folder, root) for folder in listed))

    async def _one(self, run: Planned, before: RunOutcome | None, tally: _Tally) -> RunOutcome:
        location: RunLocation | None = None
        start = None if before is None else before.folder
        try:
            if run.init_from is not None and start is None:
                raise SpamoError(f"starts from {run.init_from.name}, which failed")
            location = self._index.locate(run, start)
            reused = location.trained
            faults: Mapping[str, str] = {}
            if not (reused and location.tested(run)):
                async with self._pool.slot() as call:
                    if not reused:
                        task = self._index.train_task(run, start, location.folder, self._device)
                        begun = "resuming" if location.begun else "training"
                        self._watcher.notice(f"{run.name}: {begun}")
                        await call(task, self._warn(run), tally.teller(run.name))
                    faults = await self._test(run, location, call, tally)
        except SpamoError as error:
            return RunOutcome(run, location, error=in_a_line(error))
        return RunOutcome(run, location, reused=reused, faults=faults)

    async def _test(
        self, run: Planned, location: RunLocation, call: Call, tally: _Tally
    ) -> dict[str, str]:
        """Score the run in every way that is asked for; why those that failed did."""
        faults = {}
        for test in run.tests:
            if location.card(test) is None:
                task = EvaluateTask(
                    folder=location.folder,
                    split=TEST,
                    spec_set=test,
                    store=self._store,
                    root=self._index.frames_root(run),
                    device=self._device,
                )
                try:
                    await call(task, self._warn(run), tally.teller(run.name))
                except SpamoError as error:
                    faults[key_of(test)] = in_a_line(error)
        return faults

    async def _analyze(self, folder: Path, root: Path) -> None:
        if analysis_file(folder, "test").exists() and (folder / FOLDER).exists():
            return
        attribute = AttributeTask(
            folder=folder, clips=(str(ATTRIBUTED),), root=root, device=self._device
        )
        # Clips come one by one, the other file at the end: it tells that all are there.
        tasks = (attribute, AnalyzeTask(folder=folder, device=self._device))
        async with self._pool.slot() as call:
            for task in tasks:
                try:
                    await call(task, self._watcher.warning)
                except SpamoError as error:
                    # The page has a gap then; the experiments are what was asked for.
                    self._watcher.notice(f"no analysis of {folder.name}: {in_a_line(error)}")

    def _warn(self, run: Planned) -> Callable[[str], None]:
        return lambda text: self._watcher.warning(f"{run.name}: {text}")


def in_a_line(error: SpamoError) -> str:
    """An error with where it stands and what to do about it."""
    return " ".join(str(error).split())
