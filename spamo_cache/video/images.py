"""Clips kept as one image per frame: a folder or a glob, in natural order."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from spamo_cache.bounded import shown
from spamo_cache.datasets.source_files import doubles, is_frame, is_glob, require_inside
from spamo_cache.errors import VideoError
from spamo_cache.video.frames import Frame, check_size

_DIGITS = re.compile(r"(\d+)")

MAX_BYTES = 256 << 20
"""Largest file that is read for a frame: a PNG of the largest frame that is decoded takes less."""

_NONE = "no PNG or JPEG frames here"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segments that tell a JPEG's size."""

# Pixels as they are stored: the official release does not look at EXIF either.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# A pipe must not block the open.
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Hash(Protocol):
    """A hash of :mod:`hashlib`."""

    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder or glob holds."""

    frames: int
    size: int
    """Bytes of all frames."""
    strays: int
    """Other things that lie among them."""


def measure(path: Path, root: Path) -> Listing:
    """What a folder or glob holds, and how large it is.

    Raises:
        VideoError: no image there, a frame that is no file, or one that lies outside the corpus.
        OSError: the folder cannot be listed, or nothing matches the glob.
    """
    chosen, strays = _entries(path)
    size = 0
    for entry in chosen:
        if entry.is_symlink():
            require_inside(root, Path(entry.path))
        status = _status(entry)
        _check_file(status, entry.name)
        size += status.st_size
    return Listing(len(chosen), size, strays)


def listing(path: Path) -> list[Path]:
    """Frames of a folder or glob in natural order (2 before 10); strays are left out.

    Raises:
        VideoError: no image there, or no folder.
    """
    try:
        names = [entry.name for entry in _entries(path)[0]]
    except OSError as error:
        raise VideoError(f"source cannot be read: {error.strerror}", where=path) from None
    folder = path if path.is_dir() else path.parent
    return [folder / name for name in sorted(names, key=_natural)]


def frames(files: Sequence[Path], digest: Hash) -> Generator[Frame]:
    """Decode image files, and hash their names and contents on the way.

    Raises:
        VideoError: a file is missing or damaged.
    """
    for file in files:
        data = _bytes(file)
        digest.update(f"{file.name} {len(data)}\n".encode(errors="surrogateescape"))
        digest.update(data)
        yield _decode(data, file)


def _entries(path: Path) -> tuple[list[os.DirEntry[str]], int]:
    """The frames of a folder or glob, and the number of strays."""
    folder, pattern = (path.parent, path.name) if is_glob(path) else (path, "*")
    matches = re.compile(translate(pattern)).match
    with os.scandir(folder) as listed:
        entries = [entry for entry in listed if matches(entry.name)]
    frames = [entry for entry in entries if is_frame(entry.name)]
    if not frames:
        if not entries and folder != path and not is_frame(pattern):
            raise FileNotFoundError
        raise VideoError(_NONE, where=path)
    passed = doubles(entry.name for entry in frames)
    chosen = [entry for entry in frames if entry.name not in passed]
    return chosen, len(entries) - len(chosen)


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        # A link to nothing is a frame that is missing, not one that never was.
        raise VideoError(f"frame {shown(entry.name)} cannot be read: {error.strerror}") from None


def _check_file(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"frame {shown(name)} is not a regular file")
    if status.st_size > MAX_BYTES:
        raise VideoError(f"frame {shown(name)} has {status.st_size:,} bytes, more than any picture")


def _bytes(file: Path) -> bytes:
    try:
        descriptor = os.open(file, _OPEN)
        with os.fdopen(descriptor, "rb", buffering=0) as opened:
            _check_file(os.fstat(descriptor), file.name)
            return opened.read()
    except OSError as error:
        what = f"frame {shown(file.name)} cannot be read: {error.strerror}"
        raise VideoError(what, where=file) from None


def _decode(data: bytes, file: Path) -> Frame:
    name = shown(file.name)
    size, ending = _size_and_ending(data, name)
    check_size(*size, where=file)
    # Decoders fill in what is cut off. Some writers pad the end of a file.
    if ending not in data[-1024:]:
        raise VideoError(f"frame {name} is cut off", where=file)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as error:
        raise VideoError(f"frame {name} cannot be decoded: {error.err}", where=file) from None
    if image is None:
        raise VideoError(f"frame {name} cannot be decoded", where=file)
    return np.asarray(image, np.uint8)


def _size_and_ending(data: bytes, name: str) -> tuple[tuple[int, int], bytes]:
    """Width and height that the header claims, and the last bytes of a whole file."""
    try:
        if data.startswith(_PNG):
            return struct.unpack_from(">II", data, 16), _PNG_END
        if data.startswith(_JPEG):
            return _jpeg_size(data), _JPEG_END
    except (struct.error, IndexError):
        raise VideoError(f"frame {name} has a damaged header") from None
    raise VideoError(f"frame {name} is neither PNG nor JPEG")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at + 1] not in _JPEG_SIZES:
        # A marker may be preceded by any number of fill bytes.
        filler = data[at + 1] == 0xFF
        at += 1 if filler else 2 + max(1, struct.unpack_from(">H", data, at + 2)[0])
    height, width = struct.unpack_from(">HH", data, at + 5)
    return width, height


def _natural(name: str) -> list[tuple[int, str]]:
    parts = _DIGITS.split(name)
    # Digits stand at odd places, so numbers meet numbers; the text breaks ties such as 1 and 01.
    return [(int(part) if k % 2 else -1, part) for k, part in enumerate(parts)]
