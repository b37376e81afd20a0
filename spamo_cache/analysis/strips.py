"""Attribution over time for clips of a run, kept as documents with a few frames."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spamo_cache import io
from spamo_cache.analysis.attribution import Attribution, attribution
from spamo_cache.analysis.moments import Floats, Moments, moments, spread
from spamo_cache.compat import cpu_threads
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import UsageError
from spamo_cache.evaluate.features import check_stores
from spamo_cache.runs.load import Run, load_run, open_stores
from spamo_cache.runs.records import read_lines
from spamo_cache.train.data import Examples, examples
from spamo_cache.train.features import Features

FOLDER = Path("analysis") / "attribution"
SHOTS = 8
"""Frames kept of a clip."""
_USUAL = 64
"""Clips of a split, at even distances, whose mean row is the baseline."""

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
) -> dict[str, dict[str, Any]]:
    """Translate clips and attribute what is said to their rows, and so to their frames.

    Keeps a document of each below ``<run>/analysis/attribution``, and frames beside it.

    Args:
        ids: clips of any split.
        manifest: None takes the one kept in the run.
        stores: stream -> features; None finds those the run was trained from.
        roots: to look for them in; None is SPAMO_CACHE's.
        llm: folder of the run's LLM, where that has moved.

    Returns:
        Clip -> its document. ``nats``: log-likelihood of the words given the ``clip`` and given
        its ``baseline``, what was ``attributed``, and the ``error`` of that as a share.
        ``streams``: the ``rows`` in signed nats, ``first`` and ``last`` moment of each, their
        ``curve`` over the ``length`` moments and the stream's ``share`` of all absolute
        attribution. ``words``: the same by words, all streams together. ``shots``: frames, or
        ``without`` says why there are none.

    Raises:
        UsageError: no finished run there, or one that does not read its clips' own features; no
            such clip; nothing was said of it.
        StoreError: a store is not the one trained from, or lacks clips.
    """
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
            usual = _mean_rows(data)
            for clip in clips:
                document = _document(loaded, data, clip, stores, usual)
                found[clip.id] = _keep(run / FOLDER, document, _shots(film, clip, document))
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
    usual: Mapping[str, Tensor],
) -> dict[str, Any]:
    """All of a clip's document but the shots."""
    if clip.id in data.failed:
        raise UsageError(f"clip {clip.id!r} has no features", remedy=data.failed[clip.id])
    number = list(data.ids).index(clip.id)
    batch = data.batch([number]).to(loaded.translator.device)
    said = loaded.translator.generate(batch.streams, loaded.pipeline.decode, batch.prompts)[0]
    result = attribution(loaded.translator, batch, said, usual)
    places = {name: data.bank.places(name, number) for name in result.rows}
    return {
        "clip": clip.id,
        "split": data.split,
        "reference": data.texts[number],
        "hypothesis": said,
        **_described(result, moments(stores, clip.id, places)),
    }


def _mean_rows(data: Examples) -> dict[str, Tensor]:
    """Stream -> (width,): the mean row of clips of the split."""
    numbers = np.linspace(0, len(data) - 1, min(len(data), _USUAL)).round().astype(int).tolist()
    parts = [data.batch([number]).streams for number in numbers]
    return {name: torch.cat([part[name].rows for part in parts]).mean(0) for name in parts[0]}


def _described(result: Attribution, along: Moments) -> dict[str, Any]:
    """An attribution over the moments of its clip."""
    whole = sum(float(np.abs(rows.sum(0)).sum()) for rows in result.rows.values())
    streams, words = {}, np.zeros((len(result.words), along.length))
    for name, rows in result.rows.items():
        span = along.spans[name]
        words += spread(rows, span, along.length)
        streams[name] = {
            "share": float(np.abs(rows.sum(0)).sum()) / whole if whole else 0.0,
            "rows": _short(rows.sum(0)),
            "first": span[:, 0].tolist(),
            "last": span[:, 1].tolist(),
            "curve": _short(spread(rows.sum(0), span, along.length)),
        }
    return {
        "method": "integrated gradients",
        "baseline": f"every row the mean row of up to {_USUAL} clips of the split",
        "steps": result.steps,
        "nats": {
            "clip": result.clip,
            "baseline": result.baseline,
            "attributed": result.attributed,
            "error": result.error,
        },
        "unit": along.unit,
        "length": along.length,
        "streams": streams,
        "words": [
            {"word": word, "nats": float(curve.sum()), "curve": _short(curve)}
            for word, curve in zip(result.words, words, strict=True)
        ],
    }


def _short(values: Floats) -> list[float]:
    rounded: list[float] = values.round(6).tolist()
    return rounded


def _keep(folder: Path, document: Mapping[str, Any], shots: Shots | str) -> dict[str, Any]:
    """Write a document, and before it the frames that it names; the whole of it."""
    folder.mkdir(parents=True, exist_ok=True)
    name, shown = slug(document["clip"]), []
    for number, (at, jpeg) in enumerate(() if isinstance(shots, str) else shots):
        known = hashlib.sha256(jpeg).hexdigest()
        shown.append({"at": at, "file": f"{name}-{number}.jpg", "sha256": known})
        io.write_atomic(folder / f"{name}-{number}.jpg", jpeg)
    whole = {**document, "shots": shown, "without": shots if isinstance(shots, str) else None}
    io.write_json(folder / f"{name}.json", whole)
    return whole


def _shots(film: Film | None, clip: Clip, document: Mapping[str, Any]) -> Shots | str:
    if film is None:
        return "nobody asked for frames"
    if document["unit"] != "frame":
        return "the stores do not know which frames their rows are of"
    shots = film(clip)
    if not isinstance(shots, str) and any(at >= document["length"] for at, _ in shots):
        return "the source has other frames than when it was extracted"
    return shots
