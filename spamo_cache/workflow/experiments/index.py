"""Where the runs of experiments lie, known by their identity, and how far they have come."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError
from spamo_cache.workflow.experiments.context import ExperimentContext, ExperimentFeatures
from spamo_cache.workflow.experiments.plan import TEST, Planned, elsewhere, stream_keys
from spamo_cache.workflow.experiments.tasks import TrainTask
from spamo_cache.workflow.stores import with_corpora

if TYPE_CHECKING:
    from spamo_cache.runs.records import Scorecard
    from spamo_cache.store.remote import Location


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

    def card(self, test: Mapping[str, Any]) -> Scorecard | None:
        """The scorecard on test under these changes to the cache spec, if it is there.

        One that is damaged is as good as none: it is made anew.
        """
        from spamo_cache.runs.records import read_card

        for path in sorted((self.folder / "evaluation").glob(f"{TEST}*.json")):
            try:
                card = read_card(path)
            except SpamoError:
                continue
            # Names with a dash are of features shuffled in the evaluation alone.
            plain = card.split == TEST and not path.stem.startswith(f"{TEST}-")
            if plain and key_of(card.changed) == key_of(test):
                return card
        return None

    def tested(self, run: Planned) -> bool:
        """Whether every test of the run is there."""
        return all(self.card(test) is not None for test in run.tests)


class RunIndex:
    """Finds runs: those of the experiments, and equal ones trained beside them."""

    def __init__(self, context: ExperimentContext, features: ExperimentFeatures) -> None:
        self._context, self._features = context, features
        self._beside = _finished(context)
        self._digest = functools.cache(self._llm)

    def locate(self, run: Planned, start: Path | None) -> RunLocation:
        """Where a run lies or will lie.

        Args:
            run: the run.
            start: folder of the run that it starts from.

        Raises:
            SpamoError: what it needs is not there.
        """
        from spamo_cache.store.reader import FeatureStore
        from spamo_cache.train.data import selected
        from spamo_cache.train.run import describe

        pipeline, base = _started(run.pipeline, start), self._context.pipeline.parent
        for other in elsewhere(pipeline):
            self._stores(other)
        own = {name: FeatureStore.open(path) for name, path in self._stores(pipeline).items()}
        table, stores = with_corpora(
            pipeline, base, self._context.table, own, store=self._context.store
        )
        identity = describe(
            pipeline,
            base,
            selected(pipeline, table),
            stores,
            self._digest(pipeline.llm.weights),
        ).identity
        folder = self._context.folder / "runs" / f"{run.name}-{identity[:8]}"
        return RunLocation(self._beside.get(identity, folder))

    def train_task(self, run: Planned, start: Path | None, folder: Path, device: str) -> TrainTask:
        """What a process has to know to train a run into ``folder``."""
        return TrainTask(
            pipeline=_started(run.pipeline, start),
            base=self._context.pipeline.parent,
            output=folder,
            manifest=self._context.manifest,
            features={name: str(path) for name, path in self._stores(run.pipeline).items()},
            store=self._context.store,
            root=self.frames_root(run),
            device=device,
        )

    def frames_root(self, run: Planned) -> Path | None:
        """Where a run that tunes its encoders finds the frames."""
        return None if run.pipeline.encoders is None else self._context.corpus_root

    def state(self, run: Planned) -> str:
        """How far a run has come, in words."""
        try:
            start = None if run.init_from is None else self.locate(run.init_from, None).folder
            location = self.locate(run, start)
        except SpamoError:
            # Its features or the run it starts from are not there: neither is the run.
            return "to train"
        if not location.trained:
            return "begun" if location.begun else "to train"
        return "there" if location.tested(run) else "to test"

    def _stores(self, pipeline: Pipeline) -> dict[str, Location]:
        """Where the streams of a pipeline lie.

        Raises:
            SpamoError: one could not be extracted.
        """
        keys, faults = stream_keys(pipeline, self._context.load_spec), self._features.faults
        if missing := next((key for key in keys.values() if key in faults), None):
            raise SpamoError(faults[missing])
        return {name: self._features.stores[key] for name, key in keys.items()}

    def _llm(self, weights: str) -> str:
        from spamo_cache.model.weights import digest, locate

        return digest(locate(weights, self._context.pipeline.parent))


def _started(pipeline: Pipeline, start: Path | None) -> Pipeline:
    return pipeline if start is None else pipeline.model_copy(update={"init_from": str(start)})


def _finished(context: ExperimentContext) -> dict[str, Path]:
    """Identity -> folder of the runs that were trained beside the experiments."""
    from spamo_cache.runs.folder import RunFolder

    folders = {}
    for path in sorted(context.out.glob("*/run.json")):
        try:
            about = RunFolder(path.parent).read_about()
        except SpamoError as error:
            context.watcher.notice(f"passed over a run: {error.what}: {path}")
            continue
        if about.imported is None:
            folders[about.identity] = path.parent
    return folders


def key_of(test: Mapping[str, Any]) -> str:
    """Equal for equal changes to a cache spec."""
    return json.dumps(test, sort_keys=True)
