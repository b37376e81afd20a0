"""Run folders as a report sees them: all that a page shows of each, and a name of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from math import isfinite
from pathlib import Path

from spamo_cache import config
from spamo_cache.config import Pipeline
from spamo_cache.errors import StoreError
from spamo_cache.report.formats import slug
from spamo_cache.runs.analyses import Analysis, read_analysis
from spamo_cache.runs.attributions import (
    FOLDER,
    ClipAttribution,
    Shot,
    read_attribution,
    read_shot,
)
from spamo_cache.runs.folder import MetricsLine, RunFolder, RunRecord, RunSummary
from spamo_cache.runs.records import Evaluation, read_evaluations
from spamo_cache.runs.stages import STAGES, StageTiming, read_stages
from spamo_cache.store.attributes import Attributes
from spamo_cache.store.index import State
from spamo_cache.store.inventory import by_fingerprint

Point = tuple[float, float]
ATTRIBUTIONS = 8
"""Attributions that a page draws: it has to be carried."""
_SHOTS = 16
"""Frames shown of each."""


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """The features of one stream that a run was trained from."""

    stream: str
    fingerprint: str
    about: Attributes | None
    """What the store says about itself; None for features that were held in memory."""
    counts: Mapping[State, int] | None
    """Clips by state; None where no root holds the store."""
    valid: Mapping[str, float]
    """Split -> share of its rows that are valid; empty without validity, or where there is none."""


@dataclass(frozen=True, kw_only=True)
class AttributedClip:
    """An attribution and the frames of it that a page draws."""

    document: ClipAttribution
    shots: tuple[tuple[int, bytes], ...]
    """Moments and their pictures (JPEG)."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """Everything a report tells about one run."""

    path: Path
    pipeline: Pipeline
    metrics: tuple[MetricsLine, ...]
    evaluations: tuple[Evaluation, ...]
    stores: tuple[StoreFacts, ...]
    about: RunRecord
    done: RunSummary | None
    """Summary of training; None while it is unfinished."""
    stages: tuple[StageTiming, ...]
    """Those of the reproduction it belongs to, which keeps their times beside its folder."""
    analysis: Analysis | None
    """Of test, else of dev."""
    attributions: tuple[AttributedClip, ...]
    name: str
    """Its pipeline's; :func:`with_distinct_names` makes it unique on a page of several."""
    begun: str | None = None
    """Name of the run whose weights it began with, where that one is on the page too."""

    @property
    def anchor(self) -> str:
        """Its place on a page."""
        return f"run-{slug(self.name)}"

    @property
    def learnt(self) -> bool:
        """Whether it took any step; without, it is another run's weights tested otherwise."""
        return bool(self.pipeline.align.steps or self.pipeline.translate.steps)

    @property
    def chosen_on(self) -> str:
        """The split by which its weights were chosen."""
        return "test" if self.pipeline.protocol.select_on_test else "dev"

    @cached_property
    def headline(self) -> Evaluation | None:
        """The evaluation asked for first: test, else dev, else any; never a shuffled one."""
        usual = [e for e in self.evaluations if "-shuffled" not in e.name and not e.changed]
        for split in ("test", "dev"):
            for evaluation in usual:
                if evaluation.name == split:
                    return evaluation
        return usual[0] if usual else None

    def curve(self, key: str, stage: str | None = None) -> list[Point]:
        """(step, value) of one metric, in the order logged; other stages and gaps left out."""
        points = []
        for line in self.metrics:
            value = line.values.get(key)
            if value is not None and isfinite(value) and stage in (None, line.stage):
                points.append((float(line.step), value))
        return points


def read_run(path: Path, roots: Sequence[str] | None = None) -> RunView:
    """Read a run folder, finished or not.

    Args:
        roots: to look for its stores in; None is SPAMO_CACHE's.

    Raises:
        UsageError: no run lies there.
        SpamoError: one of its files is damaged.
    """
    folder = RunFolder(path)
    about, pipeline = folder.read_about(), folder.pipeline()
    return RunView(
        path=path,
        pipeline=pipeline,
        metrics=tuple(folder.read_metrics()),
        evaluations=tuple(read_evaluations(path)),
        stores=tuple(_stores(about, config.roots() if roots is None else roots)),
        about=about,
        done=folder.summary(),
        stages=tuple(read_stages(path.absolute().parent / STAGES)),
        analysis=read_analysis(path, "test") or read_analysis(path, "dev"),
        attributions=_attributions(path),
        name=pipeline.name,
    )


def with_distinct_names(runs: Sequence[RunView]) -> list[RunView]:
    """The same runs, no two of them with a name that gives the same place on a page."""
    names: dict[str, str] = {}
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for run in runs:
        used = seeds[slug(run.name)]
        name = next(name for name in _names(run, used) if slug(name) not in names)
        names[slug(name)] = name
        used.add(run.pipeline.seed)
    # By the folder's name: a page can be made after all folders have moved.
    by_folder = {run.path.name: name for run, name in zip(runs, names.values(), strict=True)}
    return [
        replace(run, name=name, begun=by_folder.get(Path(run.pipeline.init_from or "").name))
        for run, name in zip(runs, names.values(), strict=True)
    ]


def _names(run: RunView, seeds: Container[int]) -> Iterator[str]:
    """Names it may have; its seed tells it from runs of other ``seeds``."""
    yield run.name
    if run.pipeline.seed not in seeds:
        yield f"{run.name}, seed {run.pipeline.seed}"
    yield from (f"{run.name} ({n})" for n in count(2))


def _stores(about: RunRecord, roots: Sequence[str]) -> Iterator[StoreFacts]:
    for stream, fingerprint in about.fingerprints.items():
        attributes, counts = about.stores.get(stream), None
        valid: Mapping[str, float] = {}
        if attributes is not None:
            # A store that is gone or damaged is no fault of the run, which knows what it read.
            with suppress(StoreError):
                store = by_fingerprint(roots, fingerprint, hint=about.places[stream])
                counts, valid = store.counts(), store.valid_shares()
        yield StoreFacts(
            stream=stream, fingerprint=fingerprint, about=attributes, counts=counts, valid=valid
        )


def _attributions(run: Path) -> tuple[AttributedClip, ...]:
    """The first :data:`ATTRIBUTIONS` of a run."""
    folder = run / FOLDER
    documents = map(read_attribution, sorted(folder.glob("*.json"))[:ATTRIBUTIONS])
    return tuple(
        AttributedClip(document=one, shots=tuple(_shots(folder, one.shots))) for one in documents
    )


def _shots(folder: Path, listed: Sequence[Shot]) -> Iterator[tuple[int, bytes]]:
    for shot in listed[:: max(1, -(-len(listed) // _SHOTS))]:
        jpeg = read_shot(folder, shot)
        if jpeg is not None:
            yield shot.at, jpeg
