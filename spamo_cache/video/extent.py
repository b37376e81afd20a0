"""Where a video file says that it ends: FFmpeg takes any end for the end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_BOXES = frozenset(
    b"ftyp moov mdat moof free skip wide uuid meta mfra sidx styp pnot prft emsg pdin".split()
)
"""What an MP4 consists of; anything else was written behind it."""


def declared_end(path: Path) -> int:
    """Size that a file has at least if nothing is cut off; 0 where it does not say."""
    with path.open("rb", buffering=0) as file:
        head = file.read(256)
        if head.startswith(_EBML):
            return _matroska_end(head)
        if head[4:8] in _BOXES:
            return _mp4_end(file)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _avi_end(file)
    return 0


def _matroska_end(head: bytes) -> int:
    size, at = _ebml_number(head, len(_EBML))
    if head[at + size : at + size + 4] != _SEGMENT:
        return 0
    size, at = _ebml_number(head, at + size + 4)
    return at + size


def _ebml_number(data: bytes, at: int) -> tuple[int, int]:
    """A number of EBML, whose leading zero bits tell its length, and where it ends."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    bits = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
    # All ones: unknown, as in a live recording.
    return (0 if bits == (1 << 7 * length) - 1 else bits), at + length


def _mp4_end(file: BinaryIO) -> int:
    at = 0
    while True:
        file.seek(at)
        head = file.read(16)
        if head[4:8] not in _BOXES:
            return at
        size = int.from_bytes(head[:4])
        if size == 1:
            size = int.from_bytes(head[8:16])
        if size < 8:  # 0: up to wherever the file ends
            return at
        at += size


def _avi_end(file: BinaryIO) -> int:
    """Where the pictures end; what follows is an index, and may be missing."""
    at = end = 0
    while True:
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or not head[:4].isascii() or b"\0" in head[:4]:
            return end
        name, size, kind = struct.unpack("<4sI4s", head)
        if name == b"RIFF":
            at += 12
        else:
            at += 8 + size + size % 2
            end = at if (name, kind) == (b"LIST", b"movi") else end
