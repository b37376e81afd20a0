"""Run folders as a report sees them. Needs no torch: it reads what training left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from spamo_cache import config
from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError, UsageError

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One clip's translation beside its reference, in the corpus's convention."""

    id: str
    hypothesis: str
    reference: str
    failed: str | None = None
    """Why there were no features; its hypothesis is empty then."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """``evaluation/<name>.json`` and the lines behind it; scores in points of 100."""

    name: str
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    signatures: Mapping[str, str]
    failed: Mapping[str, str]
    shuffled: bool
    lines: tuple[Line, ...]


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

    @property
    def name(self) -> str:
        return self.pipeline.name

    @cached_property
    def headline(self) -> Evaluation | None:
        """The evaluation asked for first: test, else dev, else any; never a shuffled one."""
        usual = [found for found in self.evaluations if "-shuffled" not in found.name]
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
    about = _json(path / "run.json")
    folder = path / "evaluation"
    cards = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return Run(
        path=path,
        pipeline=config.load(path / "config.yaml", Pipeline),
        metrics=tuple(_lines(path / "metrics.jsonl")),
        evaluations=tuple(_evaluation(card) for card in cards),
        stores=tuple(_stores(about)),
        about=about,
        done=_json(path / "done.json"),
        stages=_stages(path),
        analysis=_json(path / "analysis" / "test.json") or _json(path / "analysis" / "dev.json"),
    )


def _evaluation(card: Path) -> Evaluation:
    document = _json(card)
    lines = _lines(card.with_name(f"{card.stem}.hypotheses.jsonl"))
    try:
        intervals = {key: (low, high) for key, (low, high) in document["intervals"].items()}
        return Evaluation(
            name=card.stem,
            n=int(document["n"]),
            metrics=dict(document["metrics"]),
            intervals=intervals,
            signatures=dict(document.get("signatures", {})),
            failed=dict(document.get("failed", {})),
            shuffled=bool(document.get("shuffled", False)),
            lines=tuple(
                Line(
                    id=str(line["id"]),
                    hypothesis=str(line["hypothesis"]),
                    reference=str(line["reference"]),
                    failed=line.get("failed"),
                )
                for line in lines
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SpamoError(
            f"is no scorecard: {error!r}", where=card, remedy="evaluate the run again"
        ) from None


def _stores(about: Mapping[str, Any]) -> list[StoreFacts]:
    fingerprints = about.get("parts", {}).get("stores", {})
    places = about.get("places", {})
    found = []
    for stream, fingerprint in fingerprints.items():
        place = places.get(stream)
        # A store that moved is no fault of the run: its fingerprint still names it.
        group = _json(Path(place) / "zarr.json") if place else {}
        attributes = group.get("attributes", {})
        facts = StoreFacts(stream=stream, fingerprint=fingerprint, attributes=attributes)
        found.append(facts)
    return found


def _stages(path: Path) -> tuple[Stage, ...]:
    """``reproduce`` keeps the times of its stages beside the run folder."""
    where = path.absolute().parent / "stages.json"
    found = _parsed(where)
    try:
        return tuple(
            Stage(name=str(one["name"]), seconds=float(one["seconds"]), bytes=int(one["bytes"]))
            for one in found or ()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SpamoError(f"holds no stages: {error!r}", where=where, remedy="remove it") from None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one."""
    value = _parsed(path)
    if value is not None and not isinstance(value, dict):
        raise SpamoError("holds no JSON object", where=path)
    return value or {}


def _parsed(path: Path) -> Any:
    """The content of a JSON file; None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from None


def _lines(path: Path) -> list[dict[str, Any]]:
    """JSON Lines; an absent file is empty, and a last line cut off by a kill is left out."""
    try:
        rows = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from None
    last = rows.pop()
    found = []
    for position, row in enumerate([*rows, last]):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except ValueError as error:
            if position == len(rows):
                break
            raise SpamoError(f"line {position + 1} is no JSON: {error}", where=path) from None
        if not isinstance(value, dict):
            raise SpamoError(f"line {position + 1} is no JSON object", where=path)
        found.append(value)
    return found
