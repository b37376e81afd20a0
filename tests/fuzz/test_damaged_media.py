"""Over 1,000 damaged clips in one run: each fails with a reason or passes, and that is all.

Bits may flip in pixels without a trace: such a clip passes, unless a decoder says otherwise.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from tests.support import GOLDEN
from tests.support.launcher import Launch

WEIGHTS = GOLDEN / "encoders"
WIDTH, HEIGHT, FRAMES = 64, 48, 5
PER_SOURCE = 200
INTACT = 12
LIMIT_SECONDS = 240
PEAK_BYTES = 2 << 30

Damage = Callable[[bytearray, random.Random], bytes]


# --- sound sources --------------------------------------------------------------------------------


def pictures(chance: random.Random) -> Iterator[np.ndarray]:
    noise = np.random.default_rng(chance.randrange(1 << 30))
    for k in range(FRAMES):
        frame = np.full((HEIGHT, WIDTH, 3), 60 + 20 * k, np.int64)
        yield np.clip(frame + noise.integers(-40, 40, frame.shape), 0, 255).astype(np.uint8)


def folder(path: Path, chance: random.Random, suffix: str) -> Path:
    path.mkdir()
    for k, frame in enumerate(pictures(chance)):
        cv2.imwrite(str(path / f"{k}{suffix}"), frame)
    return path


def video(path: Path, chance: random.Random, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for k, picture in enumerate(pictures(chance)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


SOURCES: dict[str, Callable[[Path, random.Random], Path]] = {
    "png": lambda path, chance: folder(path, chance, ".png"),
    "jpg": lambda path, chance: folder(path, chance, ".jpg"),
    "mp4": lambda path, chance: video(path.with_suffix(".mp4"), chance, "libx264"),
    "mkv": lambda path, chance: video(path.with_suffix(".mkv"), chance, "libx264"),
    "avi": lambda path, chance: video(path.with_suffix(".avi"), chance, "mpeg4"),
}


# --- damage ---------------------------------------------------------------------------------------


def cut(data: bytearray, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def behead(data: bytearray, chance: random.Random) -> bytes:
    return data[chance.randrange(1, len(data)) :]


def flip_bits(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 3, 20])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def flip_head(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 2, 5])):
        data[chance.randrange(min(200, len(data)))] = chance.randrange(256)
    return data


def zero(data: bytearray, chance: random.Random) -> bytes:
    first = chance.randrange(len(data))
    last = min(len(data), first + chance.choice([4, 64, 1000]))
    data[first:last] = bytes(last - first)
    return data


def scramble(data: bytearray, chance: random.Random) -> bytes:
    first = chance.randrange(len(data))
    last = min(len(data), first + 64)
    data[first:last] = chance.randbytes(last - first)
    return data


def repeat(data: bytearray, chance: random.Random) -> bytes:
    first = chance.randrange(len(data))
    return data[:first] + data[first // 2 :]


def empty(data: bytearray, chance: random.Random) -> bytes:
    return b""


DAMAGES: list[Damage] = [cut, behead, flip_bits, flip_head, zero, scramble, repeat, empty]


def damaged(root: Path, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Sound sources of every kind, each damaged in one file at random."""
    for kind, make in SOURCES.items():
        for number in range(PER_SOURCE):
            path = make(root / f"{kind}-{number:03}", chance)
            victim = chance.choice(sorted(path.iterdir())) if path.is_dir() else path
            damage = DAMAGES[number % len(DAMAGES)]
            victim.write_bytes(damage(bytearray(victim.read_bytes()), chance))
            yield {"id": f"{damage.__name__}-{path.name}", "source": path.name}


# --- what is no damaged copy but strange from the start -------------------------------------------


def renamed(root: Path, chance: random.Random) -> Iterator[str]:
    """Things that are not what their names say."""
    frames, film = folder(root / "names", chance, ".png"), video(root / "film.mp4", chance, "mpeg4")
    shutil.copy(frames / "0.png", root / "picture.mp4")
    (root / "text.mp4").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nnot a video\n")
    (root / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    (root / "list.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (root / "folder.mp4").mkdir()
    yield from ("picture.mp4", "text.mp4", "playlist.mp4", "list.mp4", "folder.mp4")
    for name, content in {
        "film-frames": film.read_bytes(),
        "text-frames": b"hello",
        "html-frames": b"<html>404</html>",
        "zero-frames": bytes(5000),
    }.items():
        path = folder(root / name, chance, ".png")
        (path / "2.png").write_bytes(content)
        yield name


def no_files(root: Path, chance: random.Random) -> Iterator[str]:
    """Pipes, devices, loops, links to nothing: as sources and as frames."""
    os.mkfifo(root / "pipe.mp4")
    (root / "device.mp4").symlink_to("/dev/zero")
    (root / "null.mp4").symlink_to("/dev/null")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "nothing.mp4").symlink_to("nowhere.mp4")
    (root / "circle").mkdir()
    (root / "circle" / "1.png").symlink_to("2.png")
    (root / "circle" / "2.png").symlink_to("1.png")
    yield from ("pipe.mp4", "device.mp4", "null.mp4", "loop.mp4", "nothing.mp4", "circle")
    for name in ("pipe", "device", "folder"):
        path = folder(root / f"{name}-frames", chance, ".jpg")
        (path / "2.jpg").unlink()
        if name == "pipe":
            os.mkfifo(path / "2.jpg")
        elif name == "device":
            (path / "2.jpg").symlink_to("/dev/zero")
        else:
            (path / "2.jpg").mkdir()
        yield path.name
    if os.geteuid():
        path = video(root / "secret.mp4", chance, "mpeg4")
        path.chmod(0)
        yield path.name


def absurd(root: Path, chance: random.Random) -> Iterator[str]:
    """Headers that claim what no memory holds, frames that do not fit together."""
    for number, (width, height) in enumerate(
        [(100_000, 100_000), (1, 1 << 31), (0, 5), (65535, 1)]
    ):
        path = folder(root / f"huge-png-{number}", chance, ".png")
        data = bytearray((path / "3.png").read_bytes())
        data[16:24] = struct.pack(">II", width, height)
        (path / "3.png").write_bytes(data)
        yield path.name
    for number, (width, height) in enumerate([(65500, 65500), (0, 0), (40000, 30000)]):
        path = folder(root / f"huge-jpg-{number}", chance, ".jpg")
        data = bytearray((path / "3.jpg").read_bytes())
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
        (path / "3.jpg").write_bytes(data)
        yield path.name
    for number, side in enumerate([30_000, 100_000, (1 << 31) - 1, 0]):
        path = video(root / f"huge-{number}.avi", chance, "mpeg4")
        data = bytearray(path.read_bytes())
        at = data.index(b"strf") + 12
        data[at : at + 8] = struct.pack("<II", side, side)
        path.write_bytes(data)
    for number, shape in enumerate([(49, 64), (64, 48), (1, 1), (480, 640)]):
        path = folder(root / f"sizes-{number}", chance, ".png")
        cv2.imwrite(str(path / "4.png"), np.zeros((*shape, 3), np.uint8))
        yield path.name
    path = root / "strip"
    path.mkdir()
    cv2.imwrite(str(path / "1.png"), np.zeros((1, 60_000, 3), np.uint8))
    yield path.name


def hostile(root: Path, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of a manifest that ask for what is not there."""
    film = video(root / "whole.mp4", chance, "libx264").name
    frames = folder(root / "whole", chance, ".png").name
    for source in (
        "../whole.mp4",
        "/etc/passwd",
        "a/../../b",
        "missing.mp4",
        "",
        ".",
        "x" * 999,
    ):
        yield {"source": source}
        yield {"source": source}
    for start, end in (
        (5.0, None),
        (0.0, 99.0),
        (0.1, 0.05),
        (-9.0, -1.0),
        (1e300, None),
        (0.041, 0.042),
    ):
        yield {"source": film, "start": start, "end": end}
    yield {"source": frames, "start": 0.0, "end": 0.1}
    for crop in (
        (0.5, 0, 0.5, 1),
        (0.9, 0, 0.1, 1),
        (0, 0, 9, 9),
        (-1, 0, 1, 1),
        (0, 0, 1e-9, 1),
        (0, 0, 0.02, 1),
    ):
        yield {"source": frames, "crop": crop}


def strange(root: Path, chance: random.Random) -> Iterator[dict[str, Any]]:
    for make in (renamed, no_files, absurd):
        yield from (
            {"id": f"{make.__name__}-{name}", "source": name} for name in make(root, chance)
        )
    for number, row in enumerate(hostile(root, chance)):
        yield {"id": f"hostile-{number}", **row}


# --- the run --------------------------------------------------------------------------------------


def sound(root: Path, chance: random.Random) -> list[dict[str, Any]]:
    kinds = list(SOURCES.items())
    found = []
    for number in range(INTACT):
        kind, make = kinds[number % len(kinds)]
        # Named to lie among the damaged ones, in the order of work too.
        path = make(root / f"{kind}-{number * 9:03}-intact", chance)
        found.append({"id": f"intact-{path.name}", "source": path.name})
    return found


def extracted(clips: list[dict[str, Any]], root: Path, out: Path, launch: Launch) -> dict[str, Any]:
    """What a process of its own makes of the clips; it must end by itself, and well."""
    out.mkdir()
    listed = out / "clips.json"
    listed.write_text(json.dumps(clips), encoding="utf-8")
    given = (listed, root, WEIGHTS, out / "stores")
    process = launch("tests.support.extract_all", *given, SPAMO_HOME=str(out / "home"))
    said, told = process.communicate(LIMIT_SECONDS)
    assert process.returncode == 0, told[-3000:]
    assert "Traceback" not in told
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def run(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("fuzz")
    root = base / "corpus"
    root.mkdir()
    chance = random.Random(20240810)
    intact = sound(root, chance)
    broken = [*damaged(root, chance), *strange(root, chance)]
    clips = [*broken, *intact]
    chance.shuffle(clips)
    return {
        "root": root,
        "broken": broken,
        "intact": intact,
        "mixed": extracted(clips, root, base / "mixed", launch),
        "alone": extracted(intact, root, base / "alone", launch),
    }


@pytest.mark.slow
def test_every_damaged_clip_fails_with_a_reason_or_passes(run: dict[str, Any]) -> None:
    found, broken = run["mixed"], run["broken"]
    assert len(broken) >= 1000
    ids = {clip["id"] for clip in [*broken, *run["intact"]]}
    assert set(found["failed"]) | set(found["ok"]) == ids
    assert not set(found["failed"]) & set(found["ok"])
    for id_, reason in found["failed"].items():
        assert reason, id_
        assert len(reason) < 300, id_
        assert reason.isprintable(), (id_, reason)
        # Neither paths of this machine nor errors that nobody meant to show.
        assert str(run["root"].parent) not in reason, (id_, reason)
        assert not re.search(r"\b\w+(Error|Exception|Warning)\b", reason), (id_, reason)
    assert found["peak_bytes"] < PEAK_BYTES


@pytest.mark.slow
def test_what_cannot_be_right_never_passes(run: dict[str, Any]) -> None:
    passed = run["mixed"]["ok"]
    for id_ in passed:
        kind, _, source = id_.partition("-")
        assert kind not in {"empty", "behead", "renamed", "no_files", "absurd", "hostile"}, id_
        # Every PNG carries checksums of its pixels.
        assert kind == "intact" or not source.startswith("png"), id_
        if kind == "cut":
            # What was cut off stood behind the last frame.
            assert passed[id_] == FRAMES, id_


@pytest.mark.slow
def test_flipped_bits_pass_where_no_decoder_can_tell(run: dict[str, Any]) -> None:
    # Were none to pass, the corpus would be too damaged to show anything about features.
    passed = {id_.partition("-")[0] for id_ in run["mixed"]["ok"]}
    assert {"flip_bits", "scramble", "zero"} <= passed


@pytest.mark.slow
def test_intact_clips_among_them_are_as_if_alone(run: dict[str, Any]) -> None:
    mixed, alone = run["mixed"]["intact"], run["alone"]["intact"]
    assert set(mixed) == set(alone) == {clip["id"] for clip in run["intact"]}
    for id_, rows in alone.items():
        # Batches have other members, which moves the last bits.
        np.testing.assert_allclose(mixed[id_], rows, atol=2e-3, rtol=2e-3)
