"""Files behind the clips, without opening one: missing, empty, unused, stray."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

from spamo_cache.datasets.doctor.findings import Finding, Level
from spamo_cache.datasets.layout import SHOWN, names_in, tally
from spamo_cache.datasets.manifest import Clip
from spamo_cache.datasets.source_files import doubles, is_frame, is_glob, locate
from spamo_cache.errors import VideoError

_NUMBER = re.compile(r"(\d+)\D*$")
"""The last number of a name."""
_EVERYWHERE = ", as in every copy of the release"

_names = lru_cache(maxsize=1)(names_in)
"""Clips that share a folder stand together."""


@dataclass(frozen=True, slots=True)
class Source:
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
class Seen:
    """All sources of a corpus."""

    present: list[bool] = field(default_factory=list)
    """Clip by clip, whether its source is there."""
    missing: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids by split."""
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


def look(clips: Iterable[Clip], root: Path) -> Seen:
    """Look at every distinct source once, with one listing per folder."""
    seen = Seen()
    known: dict[str, Source] = {}
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
            (seen.missing if source.state == "missing" else seen.empty)[clip.split].append(clip.id)
        if source.frames is not None:
            seen.frames[clip.split] += source.frames
    seen.unused = sorted(_unused(known, root))
    return seen


def check(seen: Seen, root: Path, missing: Mapping[str, int]) -> Iterator[Finding]:
    """What is wrong with the sources; ``missing`` clips per split are known to lack theirs."""
    remedy = "fetch them, or report scores with the n that is left"
    for word, groups in (("missing", seen.missing), ("empty", seen.empty)):
        for split, names in groups.items():
            known = word == "missing" and len(names) <= missing.get(split, 0)
            level: Level = "warning" if known else "error"
            what = f"{split}: clips whose video is {word}" + (_EVERYWHERE if known else "")
            for told in tally(what, names):
                yield Finding(level, told, str(root), remedy)
    for told in tally("files among the frames that are no images", seen.strays):
        yield Finding("note", told, str(root), "they are passed over")
    for told in tally("folders with frames twice, as PNG and as JPEG", seen.doubled):
        yield Finding("warning", told, str(root), "the PNGs are taken; remove what is not meant")
    for told in tally("folders with gaps in the numbers of their frames", seen.gaps):
        yield Finding("note", told, str(root), "are frames missing? Those there follow each other")
    for told in tally("folders or videos that no clip uses", seen.unused):
        yield Finding("note", told, str(root), "are labels missing?")


def source_of(root: Path, source: str) -> Source:
    """A video file, a folder of images, or a glob of them."""
    try:
        path = locate(root, source)
    except VideoError:
        return Source("ok" if (root / source).exists() else "missing")  # decoding tells more
    folder, pattern = (path, "*") if path.is_dir() else (path.parent, path.name)
    try:
        if pattern != "*" and path.exists():
            return Source("ok" if path.stat().st_size else "empty")
    except OSError:
        return Source("missing")
    if not folder.is_dir() or not (folder == path or is_glob(path)):
        return Source("missing")
    names = _names(folder)
    images = {name for name in names if is_frame(name)}
    frames = {name for name in images if fnmatchcase(name, pattern)}
    passed = doubles(frames)
    place = PurePosixPath(source) if pattern == "*" else PurePosixPath(source).parent
    strays = tuple(f"{place}/{name}" for name in names - images)
    state: Literal["ok", "empty"] = "ok" if frames else "empty"
    gaps = _gaps(frames - passed) if pattern == "*" else ""
    return Source(state, len(frames - passed), strays, len(passed), gaps)


def _gaps(frames: Set[str]) -> str:
    """What is missing between frames numbered in even steps; nothing of frames that are not."""
    numbers = sorted(int(found[1]) for name in frames if (found := _NUMBER.search(name)))
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


def _unused(known: Mapping[str, Source], root: Path) -> Iterator[str]:
    """Neighbours of the same kind: folders beside folders, ``.mp4`` beside ``.mp4``."""
    places: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for source, found in known.items():
        path = PurePosixPath(source)
        if found.frames is not None and is_glob(root / path):
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
