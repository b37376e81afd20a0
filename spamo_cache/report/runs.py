"""Run folders as a report sees them. Needs no torch: it reads what training left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

from spamo_cache import config
from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.report.attributions import Attribution, read_attributions
from spamo_cache.report.documents import parsed, read_lines, read_object
from spamo_cache.report.evaluations import Evaluation, read_evaluations
from spamo_cache.report.markup import slug

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the reproduction that a run belongs to."""

    name: str
    seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """A store a run was trained from; ``attributes`` are empty where it is out of reach."""

    stream: str
    fingerprint: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a report tells about one run."""

    path: Path
    pipeline: Pipeline
    metrics: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Evaluation, ...]
    stores: tuple[StoreFacts, ...]
    about: Mapping[str, Any]
    done: Mapping[str, Any]
    """Summary of training; empty while it is unfinished."""
    stages: tuple[Stage, ...]
    analysis: Mapping[str, Any]
    attributions: tuple[Attribution, ...]
    name: str
    """Its pipeline's; :func:`told_apart` makes it unique on a page of several."""
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
            for found in usual:
                if found.name == split:
                    return found
        return usual[0] if usual else None

    def curve(self, key: str, stage: str | None = None) -> list[Point]:
        """(step, value) of one metric, in the order logged; other stages and gaps left out."""
        points = []
        for line in self.metrics:
            value, step = line.get(key), line.get("step")
            if not isinstance(value, int | float) or not isinstance(step, int | float):
                continue
            if isfinite(value) and stage in (None, line.get("stage")):
                points.append((float(step), float(value)))
        return points


def read_run(path: Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        UsageError: no run lies there.
        SpamoError: one of its files is damaged.
    """
    if not (path / "config.yaml").is_file():
        raise UsageError("holds no run", where=path, remedy="train one, or name another folder")
    about = read_object(path / "run.json")
    pipeline = config.load(path / "config.yaml", Pipeline)
    return Run(
        path=path,
        pipeline=pipeline,
        metrics=tuple(read_lines(path / "metrics.jsonl")),
        evaluations=read_evaluations(path),
        stores=tuple(_stores(about)),
        about=about,
        done=read_object(path / "done.json"),
        stages=_stages(path),
        analysis=read_object(path / "analysis" / "test.json")
        or read_object(path / "analysis" / "dev.json"),
        attributions=read_attributions(path),
        name=pipeline.name,
    )


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """The same runs, no two of them with a name that gives the same place on a page."""
    names: dict[str, str] = {}
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for run in runs:
        used = seeds[slug(run.name)]
        name = next(name for name in _names(run, used) if slug(name) not in names)
        names[slug(name)] = name
        used.add(run.pipeline.seed)
    found = [replace(run, name=name) for run, name in zip(runs, names.values(), strict=True)]
    # By the folder's name: a page can be made after all folders have moved.
    places = {run.path.name: run.name for run in found}
    begun = (places.get(Path(run.pipeline.start or "").name) for run in found)
    return [replace(run, begun=name) for run, name in zip(found, begun, strict=True)]


def _names(run: Run, seeds: Container[int]) -> Iterator[str]:
    """Names it may have; its seed tells it from runs of other ``seeds``."""
    yield run.name
    if run.pipeline.seed not in seeds:
        yield f"{run.name}, seed {run.pipeline.seed}"
    yield from (f"{run.name} ({n})" for n in count(2))


def _stores(about: Mapping[str, Any]) -> list[StoreFacts]:
    fingerprints = about.get("parts", {}).get("stores", {})
    places = about.get("places", {})
    found = []
    for stream, fingerprint in fingerprints.items():
        place = places.get(stream)
        # A store that moved is no fault of the run: its fingerprint still names it.
        group = read_object(Path(place) / "zarr.json") if place else {}
        attributes = group.get("attributes", {})
        facts = StoreFacts(stream=stream, fingerprint=fingerprint, attributes=attributes)
        found.append(facts)
    return found


def _stages(path: Path) -> tuple[Stage, ...]:
    """``reproduce`` keeps the times of its stages beside the run folder."""
    where = path.absolute().parent / "stages.json"
    found = parsed(where)
    try:
        return tuple(
            Stage(name=str(one["name"]), seconds=float(one["seconds"]), bytes=int(one["bytes"]))
            for one in found or ()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SpamoError(f"holds no stages: {error!r}", where=where, remedy="remove it") from None
