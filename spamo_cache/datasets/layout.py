"""What readers of corpora share: finding things below a root whose layout differs from lab to lab,
tables of labels, and clips that a table cuts from long videos by time."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from spamo_cache.datasets import tables
from spamo_cache.datasets.manifest import Clip
from spamo_cache.datasets.source_files import VIDEO_SUFFIXES
from spamo_cache.errors import CorpusError

SHOWN = 3
"""Names that a note spells out."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")

ABSENT = "clips whose video is missing"
"""Begins the note of a reader that found labels without their video."""


def require_root(root: Path) -> Path:
    """The root itself, if it is a folder that can be listed.

    Raises:
        CorpusError: missing, a file, or unreadable.
    """
    try:
        with os.scandir(root):
            return root
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CorpusError(
            f"the corpus root cannot be read: {reason}", where=root, remedy="check --root"
        ) from None


def first_folder(root: Path, candidates: Iterable[str]) -> str | None:
    """The first candidate (path relative to ``root``, globs allowed) that is a folder."""
    for candidate in candidates:
        for path in sorted(root.glob(candidate)):
            if path.is_dir():
                return path.relative_to(root).as_posix()
    return None


def require_folder(root: Path, candidates: Sequence[str]) -> str:
    """As :func:`first_folder`.

    Raises:
        CorpusError: there is none; the likeliest candidate is named.
    """
    folder = first_folder(root, candidates)
    if folder is None:
        raise CorpusError(
            "no folder of clips found",
            where=root,
            remedy=f"expected {candidates[0]} below the corpus root",
        )
    return folder


def first_files(root: Path, candidates: Iterable[str]) -> list[Path]:
    """All files of the first candidate pattern that has any, sorted."""
    for candidate in candidates:
        files = sorted(path for path in root.glob(candidate) if path.is_file())
        if files:
            return files
    return []


def no_such_file(root: Path, name: str) -> CorpusError:
    """The error of a root that lacks the file that makes it this corpus."""
    return CorpusError(
        f"no {name}", where=root, remedy=f"the root is the folder of the corpus that holds {name}"
    )


def names_in(folder: Path) -> set[str]:
    """Names standing in a folder; empty where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def read_text(path: Path) -> str:
    """Text of a label file; see :func:`spamo_cache.datasets.tables.decoded`.

    Raises:
        CorpusError: not to be opened, or in another encoding.
    """
    try:
        return tables.decoded(path)
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}", where=path) from None


def rows_of(path: Path, delimiter: str, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table with a header whose cells never hold the delimiter; no quoting.

    Raises:
        CorpusError: a column is missing or a row has another number of cells.
    """
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    header = [name.strip() for name in lines[0].split(delimiter)] if lines else []
    missing = [name for name in required if name not in header]
    if missing:
        raise CorpusError(
            f"the label file has no column {missing[0]!r}",
            where=path,
            remedy=f"expected {delimiter.join(required)!r}, found {delimiter.join(header)!r}",
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.rstrip("\r").split(delimiter)
        if len(cells) != len(header):
            raise CorpusError(
                f"line {number} has {len(cells)} cells where the header has {len(header)}",
                where=path,
                remedy="fetch the file again",
            )
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def one_sided(one: str, names: Collection[str], other: str, others: Collection[str]) -> list[str]:
    """Notes on names that only one of two files has, called ``one`` and ``other``."""
    return [
        *tally(f"in {one} but not in {other}", set(names).difference(others)),
        *tally(f"in {other} but not in {one}", set(others).difference(names)),
    ]


def tally(what: str, names: Iterable[str]) -> list[str]:
    """One note counting ``names``, with the first few spelled out; none if there are none."""
    listed = sorted(names)
    if not listed:
        return []
    more = "" if len(listed) <= SHOWN else ", ..."
    return [f"{what}: {len(listed):,} ({', '.join(listed[:SHOWN])}{more})"]


# --- clips that a table cuts from long videos by time ---------------------------------------------


def seconds(text: str) -> float | None:
    """Seconds as ``12.5``, ``00:12.500`` or ``00:00:12,500``; None where it is no time."""
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups(default="0")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def unquoted(cell: str) -> str:
    """A cell without the quotes that spreadsheet tools put round it; those inside are doubled."""
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        cell = cell[1:-1].replace('""', '"')
    return cell.strip()


class TimedClips:
    """Collects clips; what cannot be used is noted, never dropped silently."""

    def __init__(self) -> None:
        self.clips: list[Clip] = []
        self._absent: list[str] = []
        self._untimed: list[str] = []
        self._mute: list[str] = []

    def add(
        self,
        clip: str,
        *,
        folder: VideoFolder,
        video: str,
        start: str,
        end: str,
        text: str,
        **rest: Any,
    ) -> None:
        """One row of a table; ``rest`` are the clip's other fields."""
        begin, stop = seconds(start), seconds(end)
        if begin is None or stop is None or not 0 <= begin < stop:
            self._untimed.append(clip)
            return
        if not text:
            self._mute.append(clip)
            return
        if video not in folder:
            self._absent.append(clip)
        source = folder.source(video)
        self.clips.append(Clip(id=clip, source=source, start=begin, end=stop, text=text, **rest))

    def notes(self) -> list[str]:
        """What a reader of the manifest must know."""
        return [
            *tally(ABSENT, self._absent),
            *tally("rows left out for an empty or broken time range", self._untimed),
            *tally("rows left out for want of a sentence", self._mute),
        ]


class VideoFolder:
    """A folder of videos below a corpus root, looked up by name without suffix."""

    def __init__(self, root: Path, folder: str) -> None:
        self._folder = folder
        names = sorted(names_in(root / folder), key=_rank, reverse=True)
        self._names = {Path(name).stem: name for name in names if _is_video(name)}

    def __contains__(self, video: str) -> bool:
        return video in self._names

    def source(self, video: str) -> str:
        """Path below the root; that of an mp4 where there is none."""
        return f"{self._folder}/{self._names.get(video, video + VIDEO_SUFFIXES[0])}"


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def _rank(name: str) -> tuple[int, str]:
    suffix = Path(name).suffix.lower()
    return (VIDEO_SUFFIXES.index(suffix) if suffix in VIDEO_SUFFIXES else len(VIDEO_SUFFIXES), name)
