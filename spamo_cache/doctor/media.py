"""What lies behind the clips of a corpus: the files of their sources, and the frames in these."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from spamo_cache import extras
from spamo_cache.datasets.layout import SHOWN, names_in, tally
from spamo_cache.datasets.manifest import Clip
from spamo_cache.datasets.source_files import doubles, is_frame, is_glob, locate
from spamo_cache.doctor.findings import Finding, Level
from spamo_cache.errors import VideoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spamo_cache.video import Probe

# --- files: missing, empty, unused, stray ---------------------------------------------------------

_NUMBER = re.compile(r"(\d+)\D*$")
"""The last number of a name."""
_EVERYWHERE = ", as in every copy of the release"

_names = lru_cache(maxsize=1)(names_in)
"""Clips that share a folder stand together."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """What a clip's source is on disk."""

    state: Literal["ok", "missing", "empty"]
    frames: int | None = None
    """Images of a folder; None for a video file."""
    strays: tuple[str, ...] = ()
    """Files among the images that are none."""
    doubles: int = 0
    """Images that are there in another format too."""
    gaps: str = ""
    """Numbers that are missing between the images' own."""


@dataclass
class SourceSurvey:
    """All sources of a corpus, without one of them opened."""

    present: list[bool] = field(default_factory=list)
    """Clip by clip, whether its source is there."""
    missing: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids and sources by split."""
    empty: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    frames: Counter[str] = field(default_factory=Counter)
    """Images by split."""
    strays: set[str] = field(default_factory=set)
    doubled: list[str] = field(default_factory=list)
    """Sources with frames that are there twice."""
    gaps: list[str] = field(default_factory=list)
    """Sources whose frames' numbers leave some out, with these."""
    unused: list[str] = field(default_factory=list)
    """Folders or files beside the sources that no clip uses."""


def look_at_sources(clips: Iterable[Clip], root: Path) -> SourceSurvey:
    """Look at every distinct source once, with one listing per folder."""
    seen = SourceSurvey()
    known: dict[str, SourceState] = {}
    _names.cache_clear()
    for clip in clips:
        source = known.get(clip.source)
        if source is None:
            source = known[clip.source] = source_of(root, clip.source)
            seen.strays.update(source.strays)
            if source.doubles:
                seen.doubled.append(clip.source)
            if source.gaps:
                seen.gaps.append(f"{clip.source}: {source.gaps}")
        seen.present.append(source.state == "ok")
        if source.state != "ok":
            states = seen.missing if source.state == "missing" else seen.empty
            states[clip.split].append(f"{clip.id}: {clip.source}")
        if source.frames is not None:
            seen.frames[clip.split] += source.frames
    seen.unused = sorted(_unused(known, root))
    return seen


def source_findings(
    seen: SourceSurvey, root: Path, missing: Mapping[str, int]
) -> Iterator[Finding]:
    """What is wrong with the sources; ``missing`` clips per split are known to lack theirs."""
    remedy = "fetch them, or report scores with the n that is left"
    for word, groups in (("missing", seen.missing), ("empty", seen.empty)):
        for split, names in groups.items():
            known = word == "missing" and len(names) <= missing.get(split, 0)
            level: Level = "warning" if known else "error"
            what = f"{split}: clips whose video is {word}" + (_EVERYWHERE if known else "")
            for note in tally(what, names):
                yield Finding(level, note, str(root), remedy)
    for note in tally("files among the frames that are no images", seen.strays):
        yield Finding("note", note, str(root), "they are passed over")
    for note in tally("folders with frames twice, as PNG and as JPEG", seen.doubled):
        yield Finding("warning", note, str(root), "the PNGs are taken; remove what is not meant")
    for note in tally("folders with gaps in the numbers of their frames", seen.gaps):
        yield Finding("note", note, str(root), "are frames missing? Those there follow each other")
    for note in tally("folders or videos that no clip uses", seen.unused):
        yield Finding("note", note, str(root), "are labels missing?")


def source_of(root: Path, source: str) -> SourceState:
    """A video file, a folder of images, or a glob of them."""
    try:
        path = locate(root, source)
    except VideoError:
        return SourceState("ok" if (root / source).exists() else "missing")  # decoding tells more
    folder, pattern = (path, "*") if path.is_dir() else (path.parent, path.name)
    try:
        if pattern != "*" and path.exists():
            return SourceState("ok" if path.stat().st_size else "empty")
    except OSError:
        return SourceState("missing")
    if not folder.is_dir() or not (folder == path or is_glob(path)):
        return SourceState("missing")
    names = _names(folder)
    images = {name for name in names if is_frame(name)}
    frames = {name for name in images if fnmatchcase(name, pattern)}
    passed = doubles(frames)
    place = PurePosixPath(source) if pattern == "*" else PurePosixPath(source).parent
    strays = tuple(f"{place}/{name}" for name in names - images)
    state: Literal["ok", "empty"] = "ok" if frames else "empty"
    gaps = _gaps(frames - passed) if pattern == "*" else ""
    return SourceState(state, len(frames - passed), strays, len(passed), gaps)


def _gaps(frames: Set[str]) -> str:
    """What is missing between frames numbered in even steps; nothing of frames that are not."""
    numbers = sorted(int(number[1]) for name in frames if (number := _NUMBER.search(name)))
    steps = Counter(after - before for before, after in pairwise(numbers))
    usual, count = steps.most_common(1)[0] if steps else (0, 0)
    # Several frames of one number, or numbers that count something else, as times do.
    if len(numbers) < len(frames) or not usual or 2 * count <= steps.total():
        return ""
    missing = [
        (before + usual, after - usual)
        for before, after in pairwise(numbers)
        if after - before > usual
    ]
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in missing[:SHOWN])


def _unused(known: Mapping[str, SourceState], root: Path) -> Iterator[str]:
    """Neighbours of the same kind: folders beside folders, ``.mp4`` beside ``.mp4``."""
    places: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for source, state in known.items():
        path = PurePosixPath(source)
        if state.frames is not None and is_glob(root / path):
            path = path.parent
        places[path.parent].add(path.name)
    for place, used in places.items():
        kinds = _kinds_in(root / place)
        wanted = {kinds[name] for name in used if name in kinds}
        for name, kind in kinds.items():
            if kind in wanted and name not in used:
                yield (place / name).as_posix()


def _kinds_in(folder: Path) -> dict[str, str]:
    """Names in a folder with their suffixes; that of a folder is empty."""
    try:
        with os.scandir(folder) as entries:
            return {e.name: "" if e.is_dir() else _suffix(e.name) for e in entries}
    except OSError:
        return {}


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


# --- frames: unreadable, short, of another size ---------------------------------------------------

WINDOW = 16
"""Frames of a motion window; shorter clips are padded with their last frame."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass
class DecodedSample:
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


def can_decode() -> bool:
    """Whether this machine can decode at all: stage 2 is installed without it."""
    return extras.is_there("av")


def decode_sample(
    clips: Sequence[Clip], root: Path, *, progress: Callable[[int, int], None] | None = None
) -> DecodedSample:
    """Decode clips from the first to the last frame; all their sources exist."""
    # Stage 2 reads corpora too, and lives without the libraries that decode.
    from spamo_cache import video  # noqa: PLC0415

    sample = DecodedSample(len(clips))
    for number, (clip, probed) in enumerate(zip(clips, video.probe_all(root, clips), strict=True)):
        if probed.reason is not None:
            cut = video.probe(root, replace(clip, start=None, end=None)).reason is None
            (sample.uncut if cut else sample.unreadable).append(f"{clip.id}: {probed.reason}")
        else:
            _decode(clip, root, probed, sample)
        if progress is not None:
            progress(number + 1, len(clips))
    return sample


def video_findings(sample: DecodedSample, root: Path, size: Size | None) -> Iterator[Finding]:
    """What is wrong with the pixels; ``size`` is that of the release, None where it differs."""
    for note in tally("unreadable clips", sample.unreadable):
        yield Finding("error", note, str(root), "fetch these videos again")
    level: Level = "error" if len(sample.uncut) == sample.count else "warning"
    for note in tally("clips whose time range the video does not have", sample.uncut):
        remedy = "they will count as failed; to keep them, correct the times in a manifest"
        yield Finding(level, note, str(root), remedy)
    for note in tally(f"clips shorter than a window of {WINDOW} frames", sample.short):
        yield Finding("note", note, str(root), "their last frame is repeated")
    sizes = ", ".join(f"{_named(each)} ({count})" for each, count in sample.sizes.most_common())
    if len(sample.sizes) > 1:
        differ = f"clips differ in the size of their frames: {sizes}"
        yield Finding("warning", differ, str(root), "a copy that was mixed from two?")
    elif size is not None and sample.sizes and size not in sample.sizes:
        other = f"frames are {sizes}; the release's are {_named(size)}"
        yield Finding("warning", other, str(root), "features of another size are other features")


def _decode(clip: Clip, root: Path, probed: Probe, sample: DecodedSample) -> None:
    from spamo_cache import video  # noqa: PLC0415

    sizes: set[Size] = set()

    def take(frames: NDArray[np.uint8]) -> None:
        sizes.add((frames.shape[2], frames.shape[1]))

    try:
        video.decode(root, replace(clip, crop=None), probed, take)
    except VideoError as error:
        sample.unreadable.append(f"{clip.id}: {error.what}")
        return
    sample.sizes.update(sizes)
    if probed.frames < WINDOW:
        sample.short.append(clip.id)


def _named(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
