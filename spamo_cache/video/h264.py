"""The little that has to be known of an H.264 stream before it is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_WITH_CHROMA_FORMAT = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
"""Profiles whose parameter sets say more than those of the first edition."""


_IDR = 5


def is_progressive(header: bytes) -> bool:
    """Whether every packet is a whole picture: an interlaced stream may have two for one.

    Args:
        header: what MP4 and Matroska keep of a stream (an AVCDecoderConfigurationRecord).

    Returns:
        False also where it does not say, or not in the usual way.
    """
    try:
        found = [_has_frames_only(_Bits(sps)) for sps in _parameter_sets(header)]
    except IndexError:
        return False
    return bool(found) and all(found)


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
