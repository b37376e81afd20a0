"""Makes the matrix: small videos of every kind that players show, and what ffmpeg shows of them.

    python -m tests.video.matrix.make [--all] [--into FOLDER]

writes the files and ``expected.json`` anew. It needs ffmpeg; the
tests read what it wrote and do not. Every frame shows its own number, so that it is known again
whatever a codec did to it. ``shown`` is worked out by hand: where ffmpeg shows something else,
the row is wrong, or ffmpeg is, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.support.videos import numbers, picture
from tests.video.matrix import patches
from tests.video.matrix.patches import (
    avi_claims,
    cover_first,
    display_matrix,
    edit_list,
    held,
    lost_packet,
    replaced,
    twice,
)

HERE = Path(__file__).parent

FRAMES, RATE = 50, 25
WIDTH, HEIGHT = 96, 64

Pixels = NDArray[np.uint8]
Step = Callable[[Path, Path], None]
"""Makes a file of the one before it; the first step has none."""


@dataclass(frozen=True)
class Row:
    """A file of the matrix.

    Attributes:
        name: of the file; the suffix names the container.
        what: what is odd about it.
        steps: how it is made.
        shown: the numbers of the frames that a player shows.
        begins: seconds from the start of the file to the first of them.
        damage: between which seconds frames may be missing or broken.
        timed: whether it says when a frame is shown; else versions of FFmpeg guess differently.
        kept: whether it is small enough for the repository.
    """

    name: str
    what: str
    steps: Sequence[Step]
    shown: Sequence[int] = range(FRAMES)
    begins: float = 0.0
    damage: tuple[float, float] | None = None
    timed: bool = True
    kept: bool = True


# Steps ----------------------------------------------------------------------------------------


def encode(
    options: str,
    *,
    before: str = "",
    frames: Sequence[int] = range(FRAMES),
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: str = str(RATE),
    held: Callable[[Pixels], Pixels] = lambda frame: frame,
) -> Step:
    """Encode numbered frames.

    Args:
        options: ffmpeg's, for the output.
        before: ffmpeg's, for the input or further ones in front of it.
        frames: the numbers.
        size: width and height.
        rate: frames a second.
        held: what the camera sees of an upright picture.
    """

    def step(_: Path, made: Path) -> None:
        pictures = [held(picture(number, *size)) for number in frames]
        height, width = pictures[0].shape[:2]
        raw = f"-f rawvideo -pix_fmt rgb24 -video_size {width}x{height} -framerate {rate} -i -"
        data = b"".join(shown.tobytes() for shown in pictures)
        ffmpeg(f"{before} {raw} -fps_mode passthrough {options}", made, data)

    return step


def two_passes(options: str) -> Step:
    """Encode numbered frames with an encoder that has seen them all before."""

    def step(given: Path, made: Path) -> None:
        log = f"-passlogfile {made}"
        encode(f"{options} -pass 1 {log} -f null")(given, made)
        encode(f"{options} -pass 2 {log}")(given, made)

    return step


def fields(given: Path, made: Path) -> None:
    """Code numbered frames as bare H.264 that has a packet for each field."""
    made.write_bytes(patches.fields([picture(number, 128, HEIGHT) for number in range(FRAMES)]))


def remux(options: str = "", before: str = "") -> Step:
    """Copy the streams into another container, or a part of them."""
    return lambda given, made: ffmpeg(f"{before} -i {given} -c copy {options}", made)


def patch(change: Callable[[bytes], bytes]) -> Step:
    """Change the bytes."""

    def step(given: Path, made: Path) -> None:
        made.write_bytes(change(given.read_bytes()))

    return step


def ffmpeg(options: str, made: Path, data: bytes = b"") -> None:
    """Run ffmpeg so that the same bytes come out every time."""
    same = "-threads 1 -map_metadata -1 -fflags +bitexact -flags:v +bitexact"
    command = f"ffmpeg -v error -y {options} {same} {made}"
    subprocess.run(command.split(), input=data, check=True)


# The matrix -----------------------------------------------------------------------------------

H264 = "-c:v libx264 -pix_fmt yuv420p -crf 30 -g 12 -bf 2"
X265 = "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:pools=1:frame-threads=1"
HEVC, OPEN = f"{X265}:keyint=12:open-gop=0", f"{X265}:keyint=12:scenecut=0:open-gop=1"
MPEG1 = "-c:v mpeg1video -g 12 -bf 2 -b:v 300k"
MPEG2 = "-c:v mpeg2video -g 12 -bf 2 -b:v 300k"
MPEG4 = "-c:v mpeg4 -g 12 -bf 2 -q:v 8"
MJPEG = "-c:v mjpeg -pix_fmt yuvj420p -q:v 15"
VP8 = "-c:v libvpx -pix_fmt yuv420p -b:v 100k -g 25"
VP9 = "-c:v libvpx-vp9 -pix_fmt yuv420p -b:v 100k -g 25 -lag-in-frames 16 -auto-alt-ref 1"
AV1 = "-c:v libaom-av1 -pix_fmt yuv420p -crf 50 -g 25 -cpu-used 8"
DV = "-c:v dvvideo -s 720x576 -pix_fmt yuv420p"
PALETTE = "-filter_complex split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"

PLAIN = {
    "h264.mp4": H264,
    "h264.mov": H264,
    "h264.mkv": H264,
    "h264.flv": H264,
    "h264.ts": H264,
    "hevc.mp4": HEVC,
    "hevc.mkv": HEVC,
    "hevc.ts": HEVC,
    "mpeg1.mpg": MPEG1,
    "mpeg2.mpg": MPEG2,
    "mpeg2.vob": MPEG2,
    "mpeg2.ts": MPEG2,
    "mpeg2.mxf": f"{MPEG2} -s 64x48",
    "mpeg4.mp4": MPEG4,
    "mpeg4.mkv": MPEG4,
    "h263.3gp": "-c:v h263 -q:v 8 -s 128x96",
    "sorenson.flv": "-c:v flv -q:v 8",
    "wmv2.asf": "-c:v wmv2 -q:v 8",
    "vp8.webm": VP8,
    "vp9.webm": VP9,
    "vp9.mp4": VP9,
    "av1.mp4": AV1,
    "av1.webm": AV1,
    "theora.ogv": "-c:v libtheora -q:v 4",
    "mjpeg.avi": MJPEG,
    "mjpeg.mov": MJPEG,
    "ffv1.mkv": "-c:v ffv1 -pix_fmt yuv420p -level 3",
    "prores.mov": "-c:v prores_ks -pix_fmt yuv422p10 -profile:v 0",
    "palette.gif": PALETTE,
}
MATRICES = {
    "upright": (1, 0, 0, 1),
    "turned-right": (0, 1, -1, 0),
    "upside-down": (-1, 0, 0, -1),
    "turned-left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}
INTERLACED = "-flags +ilme+ildct -top 1"
UNEVEN = r"-vf settb=1/1000,setpts=40*N+10*mod(N\,3) -enc_time_base 1/1000"
LATE = "-output_ts_offset 100"
FRAGMENTS = "-movflags frag_keyframe+empty_moov"
HIDDEN = "-lag-in-frames 16 -auto-alt-ref 1 -arnr-maxframes 7 -arnr-strength 5 -g 50"
NOISE = "-vf noise=alls=30:all_seed=1 -crf 24"
SINE = "-f lavfi -i sine=duration=3:sample_rate=8000"
WITH_AAC, WITH_OPUS = (f"-map 1 -map 0 -c:a {codec} -b:a 16k" for codec in ("aac", "libopus"))
COVER = Path(tempfile.gettempdir()) / "cover-art.jpg"
COVER.write_bytes(cv2.imencode(".jpg", picture(255))[1].tobytes())
ATTACHED = f"-attach {COVER} -metadata:s:t mimetype=image/jpeg"
SONG = "-map 1 -map 0 -c:v copy -c:a aac -b:a 16k -disposition:v attached_pic"
SECOND = "[0]split[a][b];[b]negate,scale=192:128:flags=neighbor,setpts=N/20/TB[c]"
TWO = f"{H264} -filter_complex {SECOND} -map [a] -map [c]"  # the second: larger, negative, slower
BY_FIRST = "-disposition:v:0 default -disposition:v:1 0"
BY_SECOND = "-disposition:v:0 0 -disposition:v:1 default"
BY_SIZE = "-disposition:v default"
TITLE, LATIN_1, GBK = b"123456", "Größen".encode("latin-1"), "手语课".encode("gbk")
TITLED = f"-metadata title={TITLE.decode()}"

FILM, OPEN_FILM, TV_FILM = encode(H264), encode(OPEN), encode(MPEG2)
NOISY_FILM = encode(f"{H264} {NOISE}")
AFTER_SOUND = encode(f"{H264} {WITH_AAC}", before=f"{SINE} -itsoffset 1")
CUT = remux(before="-ss 1.2")
ENTRY = remux(r"-bsf:v noise=drop=lt(n\,5)")
MUXED = remux("-bsf:v setts=ts=N/(50*TB)", before="-f h264")
NEGATIVE = [255 - number for number in range(FRAMES)]
PARTS = edit_list((0.4, 0.2), (0.6, 1.2))

MATRIX = [
    *(Row(name, "nothing", [encode(options)]) for name, options in PLAIN.items()),
    Row("h264.avi", "B-frames in AVI", [FILM], timed=False),
    Row("mpeg4.avi", "B-frames in AVI", [encode(MPEG4)], begins=0.04),
    Row("one-frame.mp4", "a single frame", [encode(H264, frames=[7])], [7]),
    Row("tape.dv", "bare DV", [encode(DV)], kept=False),
    # pixels
    Row("odd.webm", "odd sides", [encode(VP9, size=(97, 65))]),
    Row("odd.avi", "odd sides", [encode(MPEG4, size=(97, 65))], begins=0.04),
    Row("ten-bit.mp4", "10 bits", [encode(f"{H264} -pix_fmt yuv420p10")]),
    Row("ten-bit.mkv", "10 bits", [encode(f"{HEVC} -pix_fmt yuv420p10")]),
    Row("ten-bit.webm", "10 bits", [encode(f"{VP9} -pix_fmt yuv420p10")]),
    Row("interlaced.mp4", "two fields in a frame", [encode(f"{H264} -x264-params tff=1")]),
    Row("interlaced.mpg", "two fields in a frame", [encode(f"{MPEG2} {INTERLACED}")]),
    *(
        Row(f"{name}.mp4", f"matrix {m}", [encode(H264, held=held(*m)), patch(display_matrix(*m))])
        for name, m in MATRICES.items()
    ),
    # times
    Row("ntsc.mp4", "30000/1001 frames a second", [encode(H264, rate="30000/1001")]),
    Row("uneven.mp4", "a rate that varies", [encode(f"{H264} {UNEVEN}")]),
    Row("uneven.mkv", "a rate that varies", [encode(f"{H264} {UNEVEN}")]),
    Row("uneven.webm", "a rate that varies", [encode(f"{VP8} {UNEVEN}")]),
    Row("late.mp4", "a clock that begins at 100 s", [encode(f"{H264} {LATE}")]),
    Row("late.mkv", "a clock that begins at 100 s", [encode(f"{H264} {LATE}")]),
    Row("late.flv", "a clock that begins at 100 s", [encode(f"{H264} {LATE}")]),
    Row("late.ts", "a clock that begins at 100 s", [encode(f"{H264} {LATE}")]),
    Row("late.mpg", "a clock that begins at 100 s", [encode(f"{MPEG2} {LATE}")]),
    Row("after-sound.mp4", "begins 1 s after its sound", [AFTER_SOUND], begins=1.0),
    Row("after-sound.mkv", "begins 1 s after its sound", [AFTER_SOUND], begins=1.128),
    Row("after-sound.flv", "begins 1 s after its sound", [AFTER_SOUND], begins=1.128),
    Row("after-sound.ts", "begins 1 s after its sound", [AFTER_SOUND], begins=1.128),
    Row("opus.webm", "sound", [encode(f"{VP8} {WITH_OPUS}", before=SINE)], begins=0.008),
    Row("joined.ts", "a clock that starts again", [FILM, patch(twice)], [*range(FRAMES)] * 2),
    Row("fragments.mp4", "fragments", [encode(f"{H264} {FRAGMENTS}")]),
    Row("no-edit-list.mp4", "B-frames, no edit list", [encode(f"{H264} -use_editlist 0")]),
    # frames
    Row("pyramid.mp4", "B-frames from B-frames", [encode(f"{H264} -bf 5 -b_strategy 0")]),
    Row("hidden.webm", "frames that are never shown", [two_passes(f"{VP8} {HIDDEN}")]),
    Row("fields.mp4", "a packet is a field", [fields, MUXED]),
    Row("fields.mkv", "a packet is a field", [fields, MUXED]),
    Row("fields.ts", "a packet is a field", [fields, MUXED]),
    Row("fields.avi", "a packet is a field", [fields, MUXED], begins=0.02),
    Row("trim-start.mp4", "a trim", [FILM, patch(edit_list((1.0, 1.0)))], range(25, 50)),
    Row("trim-end.mp4", "a trim", [FILM, patch(edit_list((0.8, 0.0)))], range(20)),
    Row("trim-both.mov", "a trim", [FILM, patch(edit_list((0.6, 0.72)))], range(18, 33)),
    Row("pause.mp4", "a trim", [FILM, patch(edit_list((1.0, None), (1.0, 1.0)))], range(25, 50)),
    Row("parts.mp4", "two parts", [FILM, patch(PARTS)], [*range(5, 15), *range(30, 45)]),
    Row("cut.mp4", "a cut without encoding", [FILM, CUT], range(30, 50)),
    Row("open.mp4", "open groups", [OPEN_FILM]),
    Row("open.mkv", "open groups", [OPEN_FILM]),
    Row("open.ts", "open groups", [OPEN_FILM]),
    Row("open-cut.mp4", "a cut at an open group", [OPEN_FILM, CUT], range(30, 50)),
    Row("open-cut.mkv", "a cut at an open group", [OPEN_FILM, CUT], range(24, 50)),
    Row("open-cut.ts", "a cut at an open group", [OPEN_FILM, CUT], range(36, 50)),
    Row("entry.mp4", "begins between key frames", [FILM, ENTRY], range(12, 50), begins=0.2),
    Row("entry.mkv", "begins between key frames", [FILM, ENTRY], range(12, 50), begins=0.2),
    Row("entry.ts", "begins between key frames", [FILM, ENTRY], range(12, 50), begins=0.2),
    Row("entry.mpg", "begins between key frames", [TV_FILM, ENTRY], range(12, 50), begins=0.32),
    Row("lost.ts", "a lost packet", [NOISY_FILM, patch(lost_packet(0.6))], damage=(1.0, 1.44)),
    Row("claims-more.avi", "a count too high", [encode(MJPEG), patch(avi_claims(2))]),
    # streams and tags
    Row("cover.mp4", "cover art in front", [FILM, patch(cover_first(COVER.read_bytes()))]),
    Row("cover.mkv", "cover art", [encode(f"{H264} {ATTACHED}")]),
    Row("song.mp4", "no video but cover art", [encode(SONG, before=f"-i {COVER} {SINE}")], []),
    Row("two.mp4", "a second track", [encode(TWO)]),
    Row("two-by-first.mkv", "a second track", [encode(f"{TWO} {BY_FIRST}")]),
    Row("two-by-second.mkv", "a second track", [encode(f"{TWO} {BY_SECOND}")], NEGATIVE),
    Row("two-by-size.mp4", "a second track", [encode(f"{TWO} {BY_SIZE}")], NEGATIVE),
    Row("latin-1.mp4", "a title", [encode(f"{H264} {TITLED}"), patch(replaced(TITLE, LATIN_1))]),
    Row("gbk.avi", "a title", [encode(f"{MJPEG} {TITLED}"), patch(replaced(TITLE, GBK))]),
]


# The truth ------------------------------------------------------------------------------------


def measured(path: Path) -> dict[str, Any]:
    """What ffmpeg shows of a file: the numbers of the frames, when, and how the middle one looks.

    ffmpeg chooses the stream, turns the picture upright, and counts from the start of the file.
    """
    every = "-fps_mode passthrough"
    raw, times = "-f rawvideo -pix_fmt rgb24 pipe:1", "-enc_time_base -1 -f framecrc pipe:2"
    show = f"ffmpeg -v quiet -i {path} {every} {raw} {every} {times}"
    done = subprocess.run(show.split(), capture_output=True, check=True)
    lines = done.stderr.decode().splitlines()
    head = dict(line[1:].split(" 0: ") for line in lines if line[0] == "#" and " 0: " in line)
    rows = [[int(value) for value in row.split(",")[:5]] for row in lines if row[:2] == "0,"]
    width, height = (int(side) for side in head["dimensions"].split("x"))
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    unit = Fraction(head["tb"])
    return {
        "size": [width, height],
        "numbers": numbers(frames),
        "times": [round(float(row[2] * unit), 6) for row in rows],
        "look": look(frames[len(frames) // 2]),
    }


NOTHING: dict[str, Any] = {"size": [0, 0], "numbers": [], "times": [], "look": []}


def look(frame: Pixels) -> list[list[int]]:
    """A frame as 4 x 4 pixels, so that its colours can be told."""
    return cv2.resize(frame, (4, 4), interpolation=cv2.INTER_AREA).reshape(-1, 3).tolist()


def build(row: Row, made: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = made
        for number, step in enumerate(row.steps):
            before, given = given, Path(folder) / f"{number}{made.suffix}"
            step(before, given)
        shutil.copy(given, made)


def record(row: Row, made: Path) -> dict[str, Any]:
    """What the tests are told of a file.

    Raises:
        SystemExit: ffmpeg shows something else than the matrix says.
    """
    found = measured(made) if row.shown else NOTHING
    begin, end = row.damage or (0.0, 0.0)
    for k, time in enumerate(found["times"]):
        if begin <= time < end:
            found["numbers"][k] = row.shown[k]
    begins = found["times"][0] if row.shown and row.timed else row.begins
    if found["numbers"] != list(row.shown) or abs(begins - row.begins) > 0.01:
        raise SystemExit(f"{row.name}: ffmpeg shows {found['numbers']} from {begins} s on")
    return {"what": row.what, "damage": row.damage, "timed": row.timed, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the matrix of videos.")
    parser.add_argument("--into", type=Path, default=HERE / "files", help="folder of the files")
    parser.add_argument("--all", action="store_true", help="large files as well")
    given = parser.parse_args()
    given.into.mkdir(exist_ok=True)
    lines = []
    for row in MATRIX:
        if row.kept or given.all:
            build(row, given.into / row.name)
            found = record(row, given.into / row.name)
            lines.append(f"{json.dumps(row.name)}: {json.dumps(found)}")
    (given.into / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
