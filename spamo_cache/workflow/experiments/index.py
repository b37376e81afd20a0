"""Where the runs of experiments lie, told by their identity, and how far they have come."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache.cli import display
from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError
from spamo_cache.workflow.experiments.context import ExperimentContext, Features

if TYPE_CHECKING:
    from spamo_cache.store.remote import Location
    from spamo_cache.workflow.experiments.plan import Planned


@dataclass(frozen=True, slots=True)
class RunLocation:
    """A run's folder, whether it is there or not."""

    folder: Path

    @property
    def begun(self) -> bool:
        return (self.folder / "run.json").exists()

    @property
    def trained(self) -> bool:
        return (self.folder / "done.json").exists()

    def card(self, test: Mapping[str, Any]) -> str | None:
        """Name of the scorecard on test under these changes to the cache spec, if it is there.

        One that is damaged is as good as none: it is made anew.
        """
        from spamo_cache.runs.records import read_card
        from spamo_cache.workflow.experiments.plan import TEST

        for path in sorted((self.folder / "evaluation").glob(f"{TEST}*.json")):
            try:
                card = read_card(path)
            except SpamoError:
                continue
            # Names with a dash are of features shuffled in the evaluation alone.
            plain = card.split == TEST and not path.stem.startswith(f"{TEST}-")
            if plain and key_of(card.changed) == key_of(test):
                return path.stem
        return None

    def tested(self, run: Planned) -> bool:
        """Whether every test of the run is there."""
        return all(self.card(test) for test in run.tests)


class RunIndex:
    """Finds runs: those of the experiments, and equal ones trained beside them."""

    def __init__(self, setting: ExperimentContext, features: Features) -> None:
        self._setting, self._features = setting, features
        self._beside = _finished(setting.out)
        self._digest = functools.cache(self._llm)

    def place(self, run: Planned, start: Path | None) -> RunLocation:
        """Where a run lies or will lie.

        Args:
            start: folder of the run that it starts from.

        Raises:
            SpamoError: what it needs is not there.
        """
        from spamo_cache.store.reader import FeatureStore
        from spamo_cache.train.data import sample
        from spamo_cache.train.run import describe

        pipeline = run.pipeline
        if start is not None:
            pipeline = pipeline.model_copy(update={"init_from": str(start)})
        identity = describe(
            pipeline,
            self._setting.pipeline.parent,
            sample(self._setting.table, pipeline.train_fraction, pipeline.seed),
            {name: FeatureStore.open(path) for name, path in self.stores(pipeline).items()},
            self._digest(pipeline.llm.weights),
        ).identity
        own = self._setting.folder / "runs" / f"{run.name}-{identity[:8]}"
        return RunLocation(self._beside.get(identity, own))

    def stores(self, pipeline: Pipeline) -> dict[str, Location]:
        """Where the streams of a pipeline lie.

        Raises:
            SpamoError: one could not be extracted.
        """
        from spamo_cache.workflow.experiments.plan import stream_keys

        keys, faults = stream_keys(pipeline, self._setting.load_spec), self._features.faults
        if missing := next((key for key in keys.values() if key in faults), None):
            raise SpamoError(faults[missing])
        return {name: self._features.stores[key] for name, key in keys.items()}

    def state(self, run: Planned) -> str:
        """How far a run has come, in words."""
        try:
            start = None if run.start is None else self.place(run.start, None).folder
            place = self.place(run, start)
        except SpamoError:
            # Its features or the run it starts from are not there: neither is the run.
            return "to train"
        if not place.trained:
            return "begun" if place.begun else "to train"
        return "there" if place.tested(run) else "to test"

    def _llm(self, weights: str) -> str:
        from spamo_cache.model.weights import digest, locate

        return digest(locate(weights, self._setting.pipeline.parent))


def _finished(out: Path) -> dict[str, Path]:
    """Identity -> folder of the runs that were trained beside the experiments."""
    from spamo_cache.runs.folder import RunFolder

    found = {}
    for path in sorted(out.glob("*/run.json")):
        try:
            about = RunFolder(path.parent).read_about()
        except SpamoError as error:
            display.say(f"passed over a run: {error.what}: {path}")
            continue
        if about.imported is None:
            found[about.identity] = path.parent
    return found


def key_of(test: Mapping[str, Any]) -> str:
    """Equal for equal changes to a cache spec."""
    return json.dumps(test, sort_keys=True)
