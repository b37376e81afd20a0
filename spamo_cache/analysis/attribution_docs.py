"""Attribution over time for clips of a run, kept as documents with a few frames.

Rows of features stand for frames of their clip, as far as the stores know them.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spamo_cache import io
from spamo_cache.analysis.attribution import Attribution, attribution
from spamo_cache.compat import cpu_threads
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import UsageError
from spamo_cache.evaluate.features import check_stores
from spamo_cache.model.rows import Packed
from spamo_cache.runs.attributions import (
    FOLDER,
    ClipAttribution,
    LogLikelihoods,
    Shot,
    StreamAttribution,
    WordAttribution,
)
from spamo_cache.runs.documents import write_document
from spamo_cache.runs.load import Run, load_run, open_stores
from spamo_cache.runs.records import read_lines
from spamo_cache.store.inspect import trace
from spamo_cache.store.reader import FeatureStore
from spamo_cache.train.data import Examples, examples
from spamo_cache.train.features import Features

SHOTS = 8
"""Frames kept of a clip."""
_BASELINE = 64
"""Clips of a split, at even distances, whose mean row is the baseline."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shots = Sequence[tuple[int, bytes]]
"""Frames of a clip, numbered from 0, as JPEG."""
Film = Callable[[Clip], Shots | str]
"""Frames of a clip at even distances, or in words why there are none."""


def attribute(
    run: Path,
    ids: Sequence[str],
    *,
    manifest: Manifest | None = None,
    stores: Mapping[str, Features] | None = None,
    film: Film | None = None,
    device: str = "auto",
    roots: Sequence[str] | None = None,
    llm: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ClipAttribution]:
    """Translate clips and attribute what is said to their rows, and so to their frames.

    Keeps a document of each below ``<run>/analysis/attribution``, and frames beside it.

    Args:
        ids: clips of any split.
        manifest: None takes the one kept in the run.
        stores: stream -> features; None finds those the run was trained from.
        roots: to look for them in; None is SPAMO_CACHE's.
        llm: folder of the run's LLM, where that has moved.
        progress: called with clips done and clips in all.

    Returns:
        Clip -> its attribution, with the frames that ``film`` gave.

    Raises:
        UsageError: no finished run there, or one that does not read its clips' own features; no
            such clip; nothing was said of it.
        StoreError: a store is not the one trained from, or lacks clips.
    """
    for name in ids:
        io.check_output(run / FOLDER / f"{slug(name)}.json")
    loaded = load_run(run, device=device, llm=llm)
    if loaded.pipeline.shuffle_features:
        raise UsageError("every clip has another's features here: no frames of its own", where=run)
    manifest = manifest or loaded.folder.sentences()
    stores = stores or open_stores(loaded.folder, roots)
    check_stores(loaded.folder, stores)
    found = {}
    with cpu_threads(loaded.pipeline.threads):
        for split, clips in _by_split(manifest, ids).items():
            tokens = loaded.translator.tokens
            data = examples(loaded.pipeline, manifest, stores, split, tokens, memory=0)
            baseline = _mean_rows(data)
            for clip in clips:
                document = _document(loaded, data, clip, stores, baseline)
                found[clip.id] = _keep(run / FOLDER, document, _shots(film, clip, document))
                if progress is not None:
                    progress(len(found), len(set(ids)))
    return found


def pick(run: Path, count: int, split: str = "test") -> list[str]:
    """Clips that a run translates worst, then clips that it translates best, by chrF.

    Clips of which nothing was said are left out: there is nothing to attribute.

    Raises:
        UsageError: the run was not evaluated on the split.
    """
    lines = read_lines(run, split)
    ranked = sorted((line.chrf, line.id) for line in lines if line.hypothesis)
    worst = min(count, len(ranked)) // 2
    best = len(ranked) - (min(count, len(ranked)) - worst)
    return [clip for _, clip in ranked[:worst] + ranked[best:]]


def slug(clip: str) -> str:
    """A file name for a clip: no two have the same one, whatever their ids are made of."""
    readable = re.sub(r"[^a-z0-9]+", "-", clip.lower()).strip("-")[:60]
    known = hashlib.sha256(clip.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{readable}-{known}" if readable else known


def _by_split(manifest: Manifest, ids: Sequence[str]) -> dict[str, list[Clip]]:
    known = {clip.id: clip for clip in manifest.clips()}
    found: dict[str, list[Clip]] = {}
    for name in dict.fromkeys(ids):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            remedy = f"nearest is {near[0]!r}" if near else None
            raise UsageError(f"no clip {name!r} in this run", where=manifest.corpus, remedy=remedy)
        found.setdefault(known[name].split, []).append(known[name])
    return found


def _document(
    loaded: Run,
    data: Examples,
    clip: Clip,
    stores: Mapping[str, Features],
    baseline: Mapping[str, Tensor],
) -> ClipAttribution:
    """All of a clip's document but the shots."""
    if clip.id in data.failed:
        raise UsageError(f"clip {clip.id!r} has no features", remedy=data.failed[clip.id])
    number = list(data.ids).index(clip.id)
    batch = data.batch([number]).to(loaded.translator.device)
    said = loaded.translator.generate(batch.streams, loaded.pipeline.decode, batch.prompts)[0]
    result = attribution(loaded.translator, batch, said, baseline)
    along = time_spans(
        stores, clip.id, {name: data.bank.row_indices(name, number) for name in result.rows}
    )
    streams, words = _over_time(result, along)
    return ClipAttribution(
        clip=clip.id,
        split=data.split,
        reference=data.texts[number],
        hypothesis=said,
        method="integrated gradients",
        baseline=f"every row the mean row of up to {_BASELINE} clips of the split",
        steps=result.steps,
        nats=LogLikelihoods(
            clip=result.clip,
            baseline=result.baseline,
            attributed=result.attributed,
            error=result.error,
        ),
        unit=along.unit,
        length=along.length,
        streams=streams,
        words=words,
        shots=[],
        without=None,
    )


def _mean_rows(data: Examples) -> dict[str, Tensor]:
    """Stream -> (width,): the mean of the valid rows of clips of the split."""
    numbers = np.linspace(0, len(data) - 1, min(len(data), _BASELINE)).round().astype(int).tolist()
    parts = [data.batch([number]).streams for number in numbers]
    return {
        name: torch.cat([_valid_rows(part[name]) for part in parts]).float().mean(0)
        for name in parts[0]
    }


def _valid_rows(part: Packed) -> Tensor:
    return part.rows if part.valid is None or not part.valid.any() else part.rows[part.valid]


def _over_time(
    result: Attribution, along: TimeSpans
) -> tuple[dict[str, StreamAttribution], list[WordAttribution]]:
    """An attribution over the moments of its clip: by stream, and by word."""
    whole = sum(float(np.abs(rows.sum(0)).sum()) for rows in result.rows.values())
    streams, words = {}, np.zeros((len(result.words), along.length))
    for name, rows in result.rows.items():
        span = along.spans[name]
        words += spread(rows, span, along.length)
        streams[name] = StreamAttribution(
            share=float(np.abs(rows.sum(0)).sum()) / whole if whole else 0.0,
            rows=_short(rows.sum(0)),
            first=span[:, 0].tolist(),
            last=span[:, 1].tolist(),
            curve=_short(spread(rows.sum(0), span, along.length)),
        )
    return streams, [
        WordAttribution(word=word, nats=float(curve.sum()), curve=_short(curve))
        for word, curve in zip(result.words, words, strict=True)
    ]


def _short(values: Floats) -> list[float]:
    rounded: list[float] = values.round(6).tolist()
    return rounded


def _keep(folder: Path, document: ClipAttribution, shots: Shots | str) -> ClipAttribution:
    """Write a document, and before it the frames that it names; the whole of it."""
    name, shown = slug(document.clip), []
    for number, (at, jpeg) in enumerate(() if isinstance(shots, str) else shots):
        known = hashlib.sha256(jpeg).hexdigest()
        shown.append(Shot(at=at, file=f"{name}-{number}.jpg", sha256=known))
        io.write_atomic(folder / f"{name}-{number}.jpg", jpeg)
    whole = replace(document, shots=shown, without=shots if isinstance(shots, str) else None)
    write_document(folder / f"{name}.json", whole)
    return whole


def _shots(film: Film | None, clip: Clip, document: ClipAttribution) -> Shots | str:
    if film is None:
        return "nobody asked for frames"
    if document.unit != "frame":
        return "the stores do not know which frames their rows are of"
    shots = film(clip)
    if not isinstance(shots, str) and any(at >= document.length for at, _ in shots):
        return "the source has other frames than when it was extracted"
    return shots


# --- what rows stand for ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimeSpans:
    """What the rows of a clip stand for.

    Attributes:
        unit: ``frame``, or ``row`` of the longest stream where a store does not know the frames.
        length: moments of the clip.
        spans: stream -> (rows, 2) first and last moment of each row, both included.
    """

    unit: str
    length: int
    spans: Mapping[str, Ints]


def spread(rows: Floats, span: Ints, length: int) -> Floats:
    """(..., rows) -> (..., length): what a row has lies evenly over its moments."""
    curve = np.zeros((*rows.shape[:-1], length))
    for row, (first, last) in enumerate(span):
        curve[..., first : last + 1] += rows[..., row, None] / (last - first + 1)
    return curve


def time_spans(stores: Mapping[str, Features], clip: str, places: Mapping[str, Ints]) -> TimeSpans:
    """What rows of a clip stand for.

    Args:
        places: stream -> numbers of the rows.
    """
    traced = {name: _frames(stores[name], clip, numbers) for name, numbers in places.items()}
    known = {name: found for name, found in traced.items() if found is not None}
    if len(known) == len(places):
        length = next(iter(known.values()))[1]
        return TimeSpans("frame", length, {name: span for name, (span, _) in known.items()})
    length = max(map(len, places.values()))
    return TimeSpans("row", length, {name: _shares(len(n), length) for name, n in places.items()})


def _frames(store: Features, clip: str, numbers: Ints) -> tuple[Ints, int] | None:
    """First and last frame of rows, counted from the clip's first; and the clip's frames."""
    if not isinstance(store, FeatureStore):
        return None
    traces = [trace(store, clip, int(number)) for number in numbers]
    ends = [(one.first, one.last) for one in traces if one.first is not None]
    if len(ends) < len(traces):
        return None
    span = np.array(ends, dtype=np.int64) - store.slot(clip).first
    return _filled(span, traces[0].frames), traces[0].frames


def _filled(span: Ints, length: int) -> Ints:
    """Rows taken of a part of the frames stand for those around them too, up to half way."""
    if len(span) < 2:
        return span
    free = (span[1:, 0] - span[:-1, 1] - 1).clip(min=0)
    ahead, behind = np.append(free, free[-1]) // 2, -(-np.append(free[0], free) // 2)
    filled = np.stack([span[:, 0] - behind, span[:, 1] + ahead], axis=1)
    return filled.clip(0, length - 1)


def _shares(rows: int, length: int) -> Ints:
    """(rows, 2) first and last moment of ``rows`` equal shares of ``length`` moments."""
    bounds = np.linspace(0, length, rows + 1)
    return np.stack([np.floor(bounds[:-1]), np.ceil(bounds[1:]) - 1], axis=1).astype(np.int64)
