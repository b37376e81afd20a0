"""Clips kept as one image per frame: a folder or a glob, in natural order."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import VideoError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_ENDINGS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}
"""First bytes of a format -> last bytes of a whole file; a decoder may fill in what is cut off."""
_GLOB = re.compile(r"[*?\[]")
_DIGITS = re.compile(r"(\d+)")

# Pixels as they are stored: the official release does not look at EXIF either.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def is_glob(path: Path) -> bool:
    """Whether a source that does not exist by that name is a pattern of file names."""
    return bool(_GLOB.search(path.name)) and not path.exists()


def listing(path: Path) -> list[Path]:
    """Image files of a folder or glob in natural order (2 before 10); strays are left out.

    Raises:
        VideoError: no image there.
    """
    folder, pattern = (path.parent, path.name) if is_glob(path) else (path, "*")
    images = [file for file in folder.glob(pattern) if file.suffix.lower() in _SUFFIXES]
    if not images:
        raise VideoError("no PNG or JPEG frames here", where=path)
    return sorted(images, key=_natural)


def read(files: list[Path]) -> tuple[NDArray[np.uint8], str]:
    """Decode image files of one size.

    Returns:
        uint8 (frames, height, width, 3) RGB, and the SHA-256 of names and contents.

    Raises:
        VideoError: a file is missing, damaged or of another size.
    """
    digest = hashlib.sha256()
    frames: NDArray[np.uint8] | None = None
    for index, file in enumerate(files):
        data = _bytes(file)
        digest.update(f"{file.name} {len(data)}\n".encode(errors="surrogateescape"))
        digest.update(data)
        image = _decode(data, file)
        if frames is None:
            frames = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != frames.shape[1:]:
            raise VideoError(f"frame is {image.shape[:2]}, others {frames.shape[1:3]}", where=file)
        frames[index] = image
    if frames is None:
        raise VideoError("no frames")
    return frames, digest.hexdigest()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise VideoError(f"frame cannot be read: {error.strerror}", where=file) from None


def _decode(data: bytes, file: Path) -> NDArray[np.uint8]:
    ending = next((end for start, end in _ENDINGS.items() if data.startswith(start)), None)
    if ending is None:
        raise VideoError("frame is neither PNG nor JPEG", where=file)
    # Some writers pad the end of a file; anything of the picture stands before the ending.
    if ending not in data[-1024:]:
        raise VideoError("frame is cut off", where=file)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as error:
        raise VideoError(f"frame cannot be decoded: {error.err}", where=file) from None
    if image is None:
        raise VideoError("frame cannot be decoded", where=file)
    return np.asarray(image, np.uint8)


def _natural(file: Path) -> list[tuple[int, str]]:
    parts = _DIGITS.split(file.name)
    # Digits stand at odd places, so numbers meet numbers; the text breaks ties such as 1 and 01.
    return [(int(part) if k % 2 else -1, part) for k, part in enumerate(parts)]
