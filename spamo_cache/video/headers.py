"""What a video file says of itself, read without a decoder: where it ends, and whether its H.264
has a picture in every packet."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_WITH_CHROMA_FORMAT = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
"""Profiles whose parameter sets say more than those of the first edition."""
_IDR = 5
"""Kind of the unit that holds a picture which needs no other."""

_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_BOXES = frozenset(
    b"ftyp moov mdat moof free skip wide uuid meta mfra sidx styp pnot prft emsg pdin".split()
)
"""What an MP4 consists of; anything else was written behind it."""


# --- where a file ends ----------------------------------------------------------------------------


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


# --- H.264 ----------------------------------------------------------------------------------------


def is_progressive(header: bytes) -> bool:
    """Whether every packet is a whole picture: an interlaced stream may have two for one.

    Args:
        header: what MP4 and Matroska keep of a stream (an AVCDecoderConfigurationRecord).

    Returns:
        False also where it does not say, or not in the usual way.
    """
    try:
        progressive = [_has_frames_only(_Bits(sps)) for sps in _parameter_sets(header)]
    except IndexError:
        return False
    return bool(progressive) and all(progressive)


def is_fresh(packet: bytes, header: bytes) -> bool:
    """Whether a packet is an IDR picture; other key frames may need what went before."""
    size = (header[4] & 3) + 1
    at = 0
    while at + size < len(packet):
        if packet[at + size] & 31 == _IDR:
            return True
        at += size + int.from_bytes(packet[at : at + size])
    return False


def _parameter_sets(header: bytes) -> Iterator[bytes]:
    if header[0] != 1:  # a stream that carries its own start codes
        return
    at = 6
    for _ in range(header[5] & 31):
        size = int.from_bytes(header[at : at + 2])
        yield header[at + 2 : at + 2 + size].replace(b"\0\0\3", b"\0\0")
        at += 2 + size


def _has_frames_only(bits: _Bits) -> bool:
    """``frame_mbs_only_flag`` of a sequence parameter set (ITU-T H.264, 7.3.2.1.1)."""
    bits.skip(8)
    profile = bits.number(8)
    bits.skip(16)
    bits.golomb()
    if profile in _WITH_CHROMA_FORMAT:
        if bits.golomb() == 3:
            bits.skip(1)
        bits.golomb()
        bits.golomb()
        bits.skip(1)
        if bits.number(1):
            return False  # scaling lists of its own, which hardly anybody uses
    bits.golomb()
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.skip(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.skip(1)
    bits.golomb()
    bits.golomb()
    return bool(bits.number(1))


class _Bits:
    """Reads numbers from bytes; IndexError at their end."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def skip(self, count: int) -> None:
        self._at += count

    def number(self, count: int) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise IndexError
        return int(self._bits[self._at - count : self._at], 2)

    def golomb(self) -> int:
        """An Exp-Golomb number: as many zeros as there are bits behind its first one."""
        zeros = self._bits.find("1", self._at) - self._at
        if zeros < 0:
            raise IndexError
        self._at += zeros
        return self.number(zeros + 1) - 1
