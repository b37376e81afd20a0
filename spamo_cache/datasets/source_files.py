"""Sources of clips on disk: where they lie below the corpus root, which files are their frames."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

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
    parts = PurePosixPath(source)
    if parts.is_absolute() or ".." in parts.parts:
        raise VideoError("source lies outside the corpus", where=source)
    try:
        os.fsencode(source)
    except UnicodeEncodeError:
        raise VideoError("source has a name that no file can have") from None
    if "\0" in source:
        raise VideoError("source has a name that no file can have")
    path = root / parts
    if not source.isascii():
        path = _as_on_disk(root, parts)
    for depth in range(len(parts.parts)):
        require_inside(root, root.joinpath(*path.relative_to(root).parts[: depth + 1]))
    return path


def require_inside(root: Path, path: Path) -> None:
    """Refuse a symbolic link that leads out of the corpus.

    Raises:
        VideoError: it does.
    """
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(_real(root)):
        name = shown(path.relative_to(root).as_posix())
        raise VideoError(
            f"source lies outside the corpus: {name} is a link that leads out of it; "
            "point --root at the real folder",
            where=path,
        )


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


def shown(name: str) -> str:
    """A file's name on one line, whatever it consists of."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _preference(name: str) -> tuple[int, str]:
    return SUFFIXES.index("." + name.rpartition(".")[2].lower()), name


def _as_on_disk(root: Path, parts: PurePosixPath) -> Path:
    """The path with each name in a form that exists: macOS composes accents in its own way."""
    path = root
    for name in parts.parts:
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        path /= next((form for form in forms if os.path.lexists(path / form)), name)
    return path


@lru_cache(maxsize=16)
def _real(root: Path) -> Path:
    return Path(os.path.realpath(root))
