"""Changes to the bytes of videos that no option of ffmpeg makes, and fields of H.264 by hand."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Patch = Callable[[bytes], bytes]


# MP4 ------------------------------------------------------------------------------------------


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of each box of an MP4."""
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        yield kind, data[8:size]
        data = data[size:]


def box(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(contents), kind) + contents


def changed(data: bytes, path: str, change: Patch) -> bytes:
    """An MP4 with the contents of all boxes at a ``path`` such as moov/trak/tkhd changed.

    Chunk offsets stay right where the boxes lie behind the frames, as ffmpeg puts them.
    """
    name, _, rest = path.partition("/")
    return b"".join(
        box(kind, (changed(inner, rest, change) if rest else change(inner)))
        if kind == name.encode()
        else box(kind, inner)
        for kind, inner in boxes(data)
    )


def display_matrix(a: int, b: int, c: int, d: int) -> Patch:
    """Show a pixel at (x, y) of the coded picture at (ax + cy, bx + dy)."""
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return lambda data: changed(data, "moov/trak/tkhd", lambda tkhd: tkhd[:40] + matrix + tkhd[76:])


def held(a: int, b: int, c: int, d: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """How a picture is coded that :func:`display_matrix` shows upright."""
    if a:
        return lambda frame: frame[::d, ::a]
    return lambda frame: frame[::b, ::c].transpose(1, 0, 2)


def edit_list(*segments: tuple[float, float | None]) -> Patch:
    """Show only these parts of a video, in this order.

    Args:
        segments: how many seconds, and from which on; None shows nothing for so long.
    """

    def edit(trak: bytes) -> bytes:
        mdia = dict(boxes(dict(boxes(trak))[b"mdia"]))
        old = dict(boxes(dict(boxes(trak))[b"edts"]))[b"elst"]
        scale = struct.unpack(">I", mdia[b"mdhd"][12:16])[0]
        zero = struct.unpack(">i", old[12:16])[0]  # frames that wait for their B-frames
        rows = b"".join(
            struct.pack(
                ">Iihh",
                round(seconds * 1000),
                -1 if since is None else zero + round(since * scale),
                1,
                0,
            )
            for seconds, since in segments
        )
        elst = box(b"elst", struct.pack(">II", 0, len(segments)) + rows)
        return b"".join(
            box(kind, elst if kind == b"edts" else inner) for kind, inner in boxes(trak)
        )

    return lambda data: changed(data, "moov/trak", edit)


def cover_first(image: bytes) -> Patch:
    """Put cover art in front of the tracks, as some taggers do."""
    art = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + image))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    tags = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", art)))
    return lambda data: changed(data, "moov", lambda moov: tags + moov)


# Others ---------------------------------------------------------------------------------------


def replaced(old: bytes, new: bytes) -> Patch:
    """Other bytes of the same length."""
    assert len(old) == len(new)

    def patch(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return patch


def avi_claims(more: int) -> Patch:
    """Let an AVI's header claim more frames than are stored."""

    def patch(data: bytes) -> bytes:
        found = bytearray(data)
        for at in (data.index(b"avih") + 24, data.index(b"strh") + 40):
            count = struct.unpack_from("<I", data, at)[0]
            struct.pack_into("<I", found, at, count + more)
        return bytes(found)

    return patch


def lost_packet(share: float) -> Patch:
    """Leave one packet of 188 bytes out of a transport stream: the middle of some frame."""

    def patch(data: bytes) -> bytes:
        packets = [data[at : at + 188] for at in range(0, len(data), 188)]
        inside = [
            number
            for number, packet in enumerate(packets)
            if (packet[1] << 8 | packet[2]) & 0x5FFF == 0x100  # the video, no frame begins
        ]
        del packets[inside[round(share * len(inside))]]
        return b"".join(packets)

    return patch


def twice(data: bytes) -> bytes:
    """A file joined to itself: its clock starts again."""
    return data + data


# H.264 ----------------------------------------------------------------------------------------


def fields(pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    """Code each picture as two fields, as camcorders do and no free encoder does.

    Every macroblock is a slice of its own, so that nothing predicts it, and black or white as
    its middle is. The names are those of the standard (ITU-T H.264, 7.3).
    """
    height, width = pictures[0].shape[:2]
    across, down = width // 16, height // 32
    sequence = (
        _u(77, 8) + _u(0, 8) + _u(10, 8) + _ue(0)  # profile, constraints, level, id
        + _ue(0) + _ue(2) + _ue(1) + _u(0, 1)  # frame_num: 4 bits, pic_order_cnt_type, references
        + _ue(across - 1) + _ue(down - 1)
        + _u(0, 1) + _u(0, 1) + _u(1, 1) + _u(0, 1) + _u(0, 1)  # frame_mbs_only_flag: no
    )  # fmt: skip
    picture = (
        _ue(0) + _ue(0) + _u(0, 1) + _u(0, 1) + _ue(0)  # ids, CAVLC, no slice groups
        + _ue(0) + _ue(0) + _u(0, 1) + _u(0, 2)  # no prediction
        + _ue(49) + _ue(0) + _ue(0) + _u(1, 1) + _u(0, 1) + _u(0, 1)  # quantizer 51
    )  # fmt: skip
    stream = b""
    for number, shown in enumerate(pictures):
        since_key = number % 10
        if since_key == 0:
            stream += _unit(0x67, sequence) + _unit(0x68, picture)
        for bottom in (0, 1):
            for block in range(across * down):
                row, column = divmod(block, across)
                white = shown[32 * row + 16 + bottom, 16 * column + 8].mean() > 127
                stream += _slice(block, since_key, bottom, white=white)
    return stream


def _slice(block: int, frame_num: int, bottom: int, *, white: bool) -> bytes:
    instant = not frame_num and not bottom  # the second field of a key picture is no IDR one
    header = _ue(block) + _ue(7) + _ue(0) + _u(frame_num, 4) + _u(1, 1) + _u(bottom, 1)
    header += _ue(0) + _u(0, 2) if instant else _u(0, 1)  # idr_pic_id, dec_ref_pic_marking
    header += _ue(0) + _ue(1)  # slice_qp_delta, disable_deblocking_filter_idc
    # Intra16x16, DC, one coefficient: coeff_token, level_prefix, total_zeros. 128 +- 98.
    block_layer = _ue(3) + _ue(0) + _ue(0) + _u(5, 6) + _u(1, 11 if white else 12) + _u(1, 1)
    return _unit(0x65 if instant else 0x61, header + block_layer)


def _u(value: int, bits: int) -> str:
    return f"{value:0{bits}b}"


def _ue(value: int) -> str:
    """A number as an Exp-Golomb code; signed 25 and 0 are the unsigned 49 and 0."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def _unit(head: int, bits: str) -> bytes:
    """A NAL unit with its start code."""
    bits += "1" + "0" * (-(len(bits) + 1) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8)
    escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)
    return b"\0\0\0\1" + bytes([head]) + escaped
