"""Clips that a table cuts from long videos by time, as several corpora do."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import Any

from spamo_cache.datasets import layout
from spamo_cache.datasets.manifest import Clip

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
"""Suffixes of video files, the likeliest first."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")


def seconds(text: str) -> float | None:
    """Seconds as ``12.5``, ``00:12.500`` or ``00:00:12,500``; None where it is no time."""
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups(default="0")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))
    try:
        found = float(text)
    except ValueError:
        return None
    return found if isfinite(found) else None


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
        self, clip: str, *, folder: Folder, video: str, start: str, end: str, text: str, **rest: Any
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
            *layout.tally(layout.ABSENT, self._absent),
            *layout.tally("rows left out for an empty or broken time range", self._untimed),
            *layout.tally("rows left out for want of a sentence", self._mute),
        ]


class Folder:
    """A folder of videos below a corpus root, looked up by name without suffix."""

    def __init__(self, root: Path, place: str) -> None:
        self._place = place
        names = sorted(layout.names_in(root / place), key=_rank, reverse=True)
        self._names = {Path(name).stem: name for name in names if _is_video(name)}

    def __contains__(self, video: str) -> bool:
        return video in self._names

    def source(self, video: str) -> str:
        """Path below the root; that of an mp4 where there is none."""
        return f"{self._place}/{self._names.get(video, video + VIDEOS[0])}"


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEOS


def _rank(name: str) -> tuple[int, str]:
    suffix = Path(name).suffix.lower()
    return (VIDEOS.index(suffix) if suffix in VIDEOS else len(VIDEOS), name)
