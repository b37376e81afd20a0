"""``results.json``: which run and which test of it answer each variant of each experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache.errors import SpamoError
from spamo_cache.runs.results import RESULTS, read_results, write_results

if TYPE_CHECKING:
    from spamo_cache.config import Experiment
    from spamo_cache.workflow.experiments.plan import Trial


class Results:
    """The table of all experiments, written anew after every trial.

    Experiments that are not asked for now stay as they are, if they were run alike.
    """

    def __init__(
        self,
        folder: Path,
        experiments: Sequence[Experiment],
        asked: Sequence[str],
        *,
        seeds: Mapping[str, Sequence[int]],
        **common: Any,
    ) -> None:
        """``seeds`` by experiment; ``common``: corpus, base and set, equal for all runs."""
        self._path = folder / RESULTS
        self._experiments = experiments
        self._asked, self._seeds, self._common = frozenset(asked), seeds, common
        self._before = self._kept()
        self._runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}

    def add(
        self,
        trial: Trial,
        run: Path | None,
        *,
        evaluation: str | None = None,
        error: str | None = None,
    ) -> None:
        """Note how a trial ended, and write."""
        path = None if run is None else _relative(run, self._path.parent)
        entry = {"seed": trial.seed, "path": path, "evaluation": evaluation, "error": error}
        self._runs.setdefault((trial.experiment, trial.variant), {})[trial.seed] = entry
        self.write()

    def write(self) -> None:
        write_results(self._path, self.document())

    def document(self) -> dict[str, Any]:
        entries = [self._entry(experiment) for experiment in self._experiments]
        listed = [entry for entry in entries if entry is not None]
        seeds = sorted({seed for entry in listed for seed in entry["seeds"]})
        return {**self._common, "seeds": seeds, "experiments": listed}

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Variants that came to nothing, each with its reason."""
        return [
            (f"{experiment}/{variant}, seed {seed}", entry["error"])
            for (experiment, variant), seeds in self._runs.items()
            for seed, entry in seeds.items()
            if entry["error"] is not None
        ]

    def _entry(self, experiment: Experiment) -> Mapping[str, Any] | None:
        document = experiment.model_dump(mode="json", exclude={"seeds"})
        if experiment.name not in self._asked:
            before = self._before.get(experiment.name)
            return before if before and self._holds(before, document) else None
        variants = [
            {"name": name, **variant, "runs": self._sorted(experiment.name, name)}
            for name, variant in document["variants"].items()
        ]
        return {**document, "seeds": list(self._seeds[experiment.name]), "variants": variants}

    def _sorted(self, experiment: str, variant: str) -> list[dict[str, Any]]:
        return [entry for _, entry in sorted(self._runs.get((experiment, variant), {}).items())]

    def _holds(self, entry: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
        """Whether an entry is of this very experiment, and its scorecards are there."""
        bare = {
            one["name"]: {key: one[key] for key in one.keys() - {"name", "runs"}}
            for one in entry["variants"]
        }
        cards = [
            self._path.parent / run["path"] / "evaluation" / f"{run['evaluation']}.json"
            for one in entry["variants"]
            for run in one["runs"]
            if run["evaluation"] is not None
        ]
        known = {**entry, "variants": bare}
        del known["seeds"]
        return known == document and all(card.is_file() for card in cards)

    def _kept(self) -> dict[str, Mapping[str, Any]]:
        """Entries of an earlier call with the same corpus and settings, of however many seeds."""
        try:
            document = read_results(self._path).model_dump(mode="json")
        except SpamoError:
            # None yet, or one that is no good: what there is of runs is found by their identity.
            return {}
        if any(document[key] != value for key, value in self._common.items()):
            return {}
        return {entry["name"]: entry for entry in document["experiments"]}


def _relative(path: Path, folder: Path) -> str:
    """``path`` as seen from ``folder``, both below one parent: the whole can be moved."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
