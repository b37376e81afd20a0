"""Clips as they are decoded: what cannot be read or cut, what is short, what has another size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache.datasets.doctor.findings import Finding, Level
from spamo_cache.datasets.layout import tally
from spamo_cache.datasets.manifest import Clip
from spamo_cache.errors import VideoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spamo_cache.video import Probe

WINDOW = 16
"""Frames of a motion window; shorter clips are padded with their last frame."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass
class Looked:
    """What became of the clips that were to be decoded."""

    count: int
    short: list[str] = field(default_factory=list)
    uncut: list[str] = field(default_factory=list)
    """Clips of a readable video that lacks their range, with the reason."""
    unreadable: list[str] = field(default_factory=list)
    sizes: Counter[Size] = field(default_factory=Counter)
    """Clips by the size of their frames, before any crop."""

    def facts(self) -> dict[str, Any]:
        """For people and scripts."""
        sizes = {_named(size): count for size, count in self.sizes.most_common()}
        return {"decoded": self.count, "frame_sizes": sizes}


def readable() -> bool:
    """Whether this machine can decode at all: stage 2 is installed without it."""
    return util.find_spec("av") is not None


def look(
    clips: Sequence[Clip], root: Path, *, progress: Callable[[int, int], None] | None = None
) -> Looked:
    """Decode clips from the first to the last frame; all their sources exist."""
    # Stage 2 reads corpora too, and lives without the libraries that decode.
    from spamo_cache import video  # noqa: PLC0415

    found = Looked(len(clips))
    for number, (clip, probed) in enumerate(zip(clips, video.probe_all(root, clips), strict=True)):
        if probed.reason is not None:
            cut = video.probe(root, replace(clip, start=None, end=None)).reason is None
            (found.uncut if cut else found.unreadable).append(f"{clip.id}: {probed.reason}")
        else:
            _decode(clip, root, probed, found)
        if progress is not None:
            progress(number + 1, len(clips))
    return found


def check(found: Looked, root: Path, size: Size | None) -> Iterator[Finding]:
    """What is wrong with the pixels; ``size`` is that of the release, None where it differs."""
    for told in tally("unreadable clips", found.unreadable):
        yield Finding("error", told, str(root), "fetch these videos again")
    level: Level = "error" if len(found.uncut) == found.count else "warning"
    for told in tally("clips whose time range the video does not have", found.uncut):
        remedy = "they will count as failed; to keep them, correct the times in a manifest"
        yield Finding(level, told, str(root), remedy)
    for told in tally(f"clips shorter than a window of {WINDOW} frames", found.short):
        yield Finding("note", told, str(root), "their last frame is repeated")
    sizes = ", ".join(f"{_named(each)} ({count})" for each, count in found.sizes.most_common())
    if len(found.sizes) > 1:
        told = f"clips differ in the size of their frames: {sizes}"
        yield Finding("warning", told, str(root), "a copy that was mixed from two?")
    elif size is not None and found.sizes and size not in found.sizes:
        told = f"frames are {sizes}; the release's are {_named(size)}"
        yield Finding("warning", told, str(root), "features of another size are other features")


def _decode(clip: Clip, root: Path, probed: Probe, found: Looked) -> None:
    from spamo_cache import video  # noqa: PLC0415

    sizes: set[Size] = set()

    def take(frames: NDArray[np.uint8]) -> None:
        sizes.add((frames.shape[2], frames.shape[1]))

    try:
        video.decode(root, replace(clip, crop=None), probed, take)
    except VideoError as error:
        found.unreadable.append(f"{clip.id}: {error.what}")
        return
    found.sizes.update(sizes)
    if probed.frames < WINDOW:
        found.short.append(clip.id)


def _named(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
