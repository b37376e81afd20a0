"""Sentences and videos that a split shares with those that the run was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spamo_cache.datasets.manifest import Clip
from spamo_cache.evaluate.metrics import bleu4
from spamo_cache.model.text import gist


def seen(others: Iterable[Clip], references: Iterable[str]) -> list[bool]:
    """Whether each of the references is also a sentence of the others, whatever case and dots."""
    known = {gist(clip.text) for clip in others}
    return [gist(text) in known for text in references]


def same_videos(others: Iterable[Clip], clips: Iterable[Clip]) -> int:
    """How many of the clips are among the others too: the same video at the same times."""
    known = {(clip.source, clip.start, clip.end) for clip in others}
    return sum((clip.source, clip.start, clip.end) in known for clip in clips)


def bleu4_of_others(
    hypotheses: Sequence[str], references: Sequence[str], hits: Sequence[bool], *, tokenize: str
) -> tuple[int, float | None]:
    """Number and BLEU-4 of the clips that are no hits; None where all are."""
    rest = [number for number, hit in enumerate(hits) if not hit]
    if not rest:
        return 0, None
    pairs = [[side[number] for number in rest] for side in (hypotheses, references)]
    return len(rest), bleu4(*pairs, tokenize=tokenize)
