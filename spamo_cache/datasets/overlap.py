"""What two splits share, clip by clip: sentences, signers, and footage of one video.

Everything here is pure and says of each clip whether the others have something of it.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Clip


def gist(text: str) -> str:
    """Equal for sentences that differ in case, spacing or punctuation only."""
    return "".join(filter(str.isalnum, text.casefold()))


def same_sentences(others: Iterable[Clip], texts: Iterable[str]) -> list[bool]:
    """Whether each text is also a sentence of the others, whatever case and dots."""
    known = {gist(clip.text) for clip in others}
    return [gist(text) in known for text in texts]


def same_videos(others: Iterable[Clip], clips: Iterable[Clip]) -> list[bool]:
    """Whether each clip shows footage of the others: the same video at overlapping times.

    Clips that merely touch, one beginning where another ends, do not overlap.
    """
    times: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for clip in others:
        times[video(clip)].append(shown(clip))
    starts, ends = dict[str, list[float]](), dict[str, list[float]]()
    for source, listed in times.items():
        listed.sort()
        starts[source] = [start for start, _ in listed]
        ends[source] = list(accumulate((end for _, end in listed), max))
    found = []
    for clip in clips:
        start, end = shown(clip)
        # Of those that begin before it ends, the one that lasts longest.
        before = bisect_left(starts.get(video(clip), []), end)
        found.append(before > 0 and ends[video(clip)][before - 1] > start)
    return found


def video(clip: Clip) -> str:
    """The source of a clip, however it is written."""
    return posixpath.normpath(clip.source)


def shown(clip: Clip) -> tuple[float, float]:
    """From when to when, in seconds, a clip is shown; a whole video without times."""
    start = 0.0 if clip.start is None else clip.start
    return start, inf if clip.end is None else clip.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """The signers of some clips, held against those of others.

    Attributes:
        known: for each clip, whether its signer is among the others'; False where it has none.
        signers: how many different ones the clips have.
        shared: how many of these the others have too.
        unnamed: clips without a signer.
        others_unnamed: clips of the others without a signer, and the number of the others.
    """

    known: Sequence[bool]
    signers: int
    shared: int
    unnamed: int
    others_unnamed: tuple[int, int]

    def words(self, split: str, other: str) -> str:
        """The counts in a sentence, of the split and of the one it is held against."""
        return (
            f"{sum(self.known):,} of {len(self.known):,} clips of {split} are by signers of "
            f"{other} ({self.shared:,} of {self.signers:,} signers)"
        )

    def gaps(self, split: str, other: str) -> str:
        """How many clips have no signer, in words; empty where all have one."""
        counts = ((self.unnamed, len(self.known), split), (*self.others_unnamed, other))
        listed = [
            f"{count:,} of {clips:,} clips of {name}" for count, clips, name in counts if count
        ]
        return f"no signer is given for {' and '.join(listed)}" if listed else ""


def same_signers(others: Iterable[Clip], clips: Sequence[Clip]) -> Signers:
    """Which clips are by signers of the others."""
    theirs = [signer(clip) for clip in others]
    ours = [signer(clip) for clip in clips]
    known = set(theirs) - {None}
    names = set(ours) - {None}
    return Signers(
        known=[name in known for name in ours],
        signers=len(names),
        shared=len(names & known),
        unnamed=ours.count(None),
        others_unnamed=(theirs.count(None), len(theirs)),
    )


def signer(clip: Clip) -> str | None:
    """Who signs a clip; None where the column has nothing."""
    name = (clip.signer or "").strip()
    return name or None
