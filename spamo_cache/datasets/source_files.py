"""Sources of clips on disk: where they lie below the corpus root, which files are their frames."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from spamo_cache import bounded
from spamo_cache.errors import VideoError

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of frames that can be decoded; of two files of one stem the one named first here is taken."""

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
"""Of video files, the likeliest first."""

_GLOB = re.compile(r"[*?\[]")


def locate(root: Path, source: str) -> Path:
    """Path of a source below ``root``, in the Unicode form that the disk has it in.

    Raises:
        VideoError: the source would leave the root, by its name or by a symbolic link.
    """
    try:
        return bounded.locate(root, source)
    except ValueError as error:
        raise VideoError(f"source {error}", where=source) from None


def require_inside(root: Path, path: Path) -> None:
    """Refuse a symbolic link that leads out of the corpus.

    Raises:
        VideoError: it does.
    """
    try:
        bounded.require_inside(root, path)
    except ValueError as error:
        raise VideoError(f"source {error}", where=path) from None


def is_glob(path: Path) -> bool:
    """Whether a source that does not exist by that name is a pattern of frames' names."""
    literal = not _GLOB.search(path.suffix) and path.suffix.lower() not in ("", *SUFFIXES)
    return bool(_GLOB.search(path.name)) and not literal and not path.exists()


def is_frame(name: str) -> bool:
    """Whether a file is a frame by its name."""
    # Hidden files with a frame's name are what macOS leaves beside the real ones.
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def doubles(names: Iterable[str]) -> set[str]:
    """Frames that are there twice, as PNG and as JPEG: those that are passed over."""
    best: dict[str, str] = {}
    passed = set()
    for name in sorted(names, key=_preference):
        kept = best.setdefault(name.rpartition(".")[0], name)
        if kept != name:
            passed.add(name)
    return passed


def _preference(name: str) -> tuple[int, str]:
    return SUFFIXES.index("." + name.rpartition(".")[2].lower()), name
