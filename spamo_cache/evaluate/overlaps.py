"""Sentences and videos that a split shares with those that the run was made from."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf

from spamo_cache.datasets.manifest import Clip
from spamo_cache.metrics.scores import bleu4
from spamo_cache.model.text import gist


def seen(others: Iterable[Clip], references: Iterable[str]) -> list[bool]:
    """Whether each of the references is also a sentence of the others, whatever case and dots."""
    known = {gist(clip.text) for clip in others}
    return [gist(text) in known for text in references]


def same_videos(others: Iterable[Clip], clips: Iterable[Clip]) -> int:
    """How many of the clips show footage of the others: the same video at overlapping times.

    Clips that merely touch, one beginning where another ends, do not overlap.
    """
    known: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for clip in others:
        known[posixpath.normpath(clip.source)].append(_times(clip))
    return sum(
        any(
            max(start, first) < min(end, last)
            for first, last in known.get(posixpath.normpath(clip.source), ())
        )
        for clip in clips
        for start, end in [_times(clip)]
    )


def _times(clip: Clip) -> tuple[float, float]:
    """From when to when, in seconds, a clip is shown; a whole video without times."""
    start = 0.0 if clip.start is None else clip.start
    return start, inf if clip.end is None else clip.end


def bleu4_of_others(
    hypotheses: Sequence[str], references: Sequence[str], hits: Sequence[bool], *, tokenize: str
) -> tuple[int, float | None]:
    """Number and BLEU-4 of the clips that are no hits; None where all are."""
    rest = [number for number, hit in enumerate(hits) if not hit]
    if not rest:
        return 0, None
    pairs = [[side[number] for number in rest] for side in (hypotheses, references)]
    return len(rest), bleu4(*pairs, tokenize=tokenize)
