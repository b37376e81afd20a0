"""Trains and tests the runs of experiments beside each other.

A run is the public commands `train` and `evaluate` in a child process; what is finished is
recognised by its identity and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import config
from spamo_cache.cli import display
from spamo_cache.errors import SpamoError
from spamo_cache.workflow.experiments.context import ExperimentContext
from spamo_cache.workflow.experiments.index import RunIndex, RunLocation, key_of
from spamo_cache.workflow.experiments.processes import Call, ProcessPool
from spamo_cache.workflow.experiments.results import Results

if TYPE_CHECKING:
    from spamo_cache.workflow.experiments.plan import Plan, Planned

ATTRIBUTED = 4
"""Clips of an analysed run whose translation is traced to frames."""

Faults = Mapping[str, str]
"""Test, by ``key_of`` -> why it could not be."""


class Scheduler:
    """Does what is left of a plan, and notes how every trial ended."""

    def __init__(
        self,
        setting: ExperimentContext,
        plan: Plan,
        index: RunIndex,
        results: Results,
        pool: ProcessPool,
    ) -> None:
        self._setting, self._plan, self._pool = setting, plan, pool
        self._whereabouts, self._results = index, results
        # Where GPUs are dealt out, a child sees its own one alone.
        self._device = ("--device", setting.device.partition(":")[0])
        self._ended: dict[str, Path | None] = {}

    async def train(self) -> None:
        """Every run of the plan with its tests, each after the one that it starts from."""
        for trial in self._plan.trials:
            if trial.run is None:
                self._results.add(trial, None, error=trial.error)
        tasks: dict[str, asyncio.Task[Path | None]] = {}
        for key, run in self._plan.runs.items():
            before = None if run.start is None else tasks[run.start.key]
            tasks[key] = asyncio.create_task(self._one(run, before))
        await asyncio.gather(*tasks.values())

    async def analyse(self, variants: Sequence[tuple[str, str]]) -> None:
        """Look into the first run of each of these (experiment, variant), where it is there."""
        found: dict[tuple[str, str], Path] = {}
        for trial in self._plan.trials:
            folder = self._ended.get(trial.run or "")
            if folder is not None and (trial.experiment, trial.variant) in variants:
                found.setdefault((trial.experiment, trial.variant), folder)
        await asyncio.gather(*map(self._look, sorted(set(found.values()))))

    async def _one(self, run: Planned, before: Awaitable[Path | None] | None) -> Path | None:
        """One run; its folder if it is trained."""
        start = None if before is None else await before
        place: RunLocation | None = None
        faults: Faults = {}
        error: str | None = None
        try:
            if run.start is not None and start is None:
                raise SpamoError(f"starts from {run.start.name}, which failed")
            place = self._whereabouts.place(run, start)
            if not (place.trained and place.tested(run)):
                async with self._pool.place() as call:
                    await self._train(run, start, place, call)
                    faults = await self._test(run, place, call)
        except SpamoError as fault:
            error = _in_a_line(fault)
        self._note(run, place, faults, error)
        return self._ended[run.key]

    async def _train(
        self, run: Planned, start: Path | None, place: RunLocation, call: Call
    ) -> None:
        if place.trained:
            return
        display.say(f"{run.name}: {'goes on' if place.begun else 'training'}")
        changes = [*self._setting.overrides, *run.overrides]
        changes += [] if start is None else [f"init_from={start}"]
        stores = self._whereabouts.stores(run.pipeline)
        await call(
            *("train", str(self._setting.pipeline), "-o", str(place.folder)),
            *("--manifest", str(self._setting.manifest)),
            *_repeated("--set", changes),
            *_repeated("--features", [f"{name}={path}" for name, path in stores.items()]),
            *self._frames(run),
            *self._device,
        )

    async def _test(self, run: Planned, place: RunLocation, call: Call) -> Faults:
        """Score the run in every way that is asked for; why those that failed did."""
        from spamo_cache.workflow.experiments.plan import TEST

        faults = {}
        for test in run.tests:
            if place.card(test) is None:
                changes = _repeated("--spec-set", config.overrides(test))
                line = ["evaluate", str(place.folder), "--split", TEST, *changes, *self._device]
                store = self._setting.store
                try:
                    await call(
                        *line, *_repeated("--store", [store] if store else []), *self._frames(run)
                    )
                except SpamoError as error:
                    faults[key_of(test)] = _in_a_line(error)
        return faults

    def _frames(self, run: Planned) -> list[str]:
        """Where a run that tunes its encoders finds what they see."""
        tuned = run.pipeline.encoders is not None
        return ["--root", str(self._setting.corpus_root)] if tuned else []

    def _note(
        self, run: Planned, place: RunLocation | None, faults: Faults, error: str | None
    ) -> None:
        """Write down how the trials of a run ended, and say so."""
        folder = None if place is None else place.folder
        for trial in self._plan.trials:
            if trial.run == run.key:
                fault = error or faults.get(key_of(trial.test))
                card = place.card(trial.test) if place and fault is None else None
                self._results.add(trial, folder, evaluation=card, error=fault)
        self._ended[run.key] = folder if error is None else None
        told = error or next(iter(faults.values()), None) or _score(run, place)
        display.say(f"[{len(self._ended)}/{len(self._plan.runs)}] {run.name}: {told}")

    async def _look(self, folder: Path) -> None:
        found = folder / "analysis"
        if (found / "test.json").exists() and (found / "attribution").exists():
            return
        root = str(self._setting.corpus_root)
        # Clips come one by one, the other file at the end: it tells that all are there.
        for options in (("--clip", str(ATTRIBUTED), "--root", root), ()):
            try:
                async with self._pool.place() as call:
                    await call("analyze", str(folder), *options, *self._device)
            except SpamoError as error:
                # The page has a gap then; the experiments are what was asked for.
                display.say(f"no analysis of {folder.name}: {_in_a_line(error)}")


def _score(run: Planned, place: RunLocation | None) -> str:
    """BLEU-4 in every test of a run."""
    from spamo_cache.runs.records import read_card

    names = [place.card(test) for test in run.tests] if place else []
    cards = [read_card(place.folder / "evaluation" / f"{name}.json") for name in names if place]
    scores = [f"{card.metrics['bleu4']:.2f}" for card in cards]
    return f"BLEU-4 {', '.join(scores)}" if scores else "trained"


def _repeated(option: str, values: Sequence[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)


def _in_a_line(error: SpamoError) -> str:
    return " ".join(str(error).split())
