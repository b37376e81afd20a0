"""Clips kept as one image per frame: a folder or a glob, in natural order."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from spamo_cache.errors import VideoError
from spamo_cache.video.frames import Frame, check_size

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GLOB = re.compile(r"[*?\[]")
_DIGITS = re.compile(r"(\d+)")

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


def is_glob(path: Path) -> bool:
    """Whether a source that does not exist by that name is a pattern of file names."""
    return bool(_GLOB.search(path.name)) and not path.exists()


def measure(path: Path) -> Listing:
    """What a folder or glob holds, and how large it is.

    Raises:
        VideoError: no image there, or a frame that is no file.
        OSError: the folder cannot be listed.
    """
    count = size = strays = 0
    for entry, is_frame in _entries(path):
        if not is_frame:
            strays += 1
            continue
        status = _status(entry)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"frame {shown(entry.name)} is not a regular file", where=path)
        count, size = count + 1, size + status.st_size
    if not count:
        raise VideoError(_NONE, where=path)
    return Listing(count, size, strays)


def listing(path: Path) -> list[Path]:
    """Frames of a folder or glob in natural order (2 before 10); strays are left out.

    Raises:
        VideoError: no image there, or no folder.
    """
    try:
        names = [entry.name for entry, is_frame in _entries(path) if is_frame]
    except OSError as error:
        raise VideoError(f"source cannot be read: {error.strerror}", where=path) from None
    if not names:
        raise VideoError(_NONE, where=path)
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


def shown(name: str) -> str:
    """A file's name on one line, whatever it consists of."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _entries(path: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """What lies in a folder, or matches a glob, and whether it is a frame by its name."""
    folder, pattern = (path.parent, path.name) if is_glob(path) else (path, "*")
    matches = re.compile(translate(pattern)).match
    with os.scandir(folder) as entries:
        for entry in entries:
            if matches(entry.name):
                # Hidden files with a frame's name are what macOS leaves beside the real ones.
                hidden = entry.name.startswith(".")
                yield entry, not hidden and entry.name.lower().endswith(_SUFFIXES)


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        # A link to nothing is a frame that is missing, not one that never was.
        raise VideoError(f"frame {shown(entry.name)} cannot be read: {error.strerror}") from None


def _bytes(file: Path) -> bytes:
    try:
        descriptor = os.open(file, _OPEN)
        with os.fdopen(descriptor, "rb", buffering=0) as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise VideoError(f"frame {shown(file.name)} is not a regular file", where=file)
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
