"""From a row of features back to the very frames: each frame shows its own number."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from spamo_cache.cli.main import app
from spamo_cache.config import CacheSpec, TextConfig, parse
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.summary import Summary
from spamo_cache.store.copy import copy
from spamo_cache.store.inspect import trace
from spamo_cache.store.reader import FeatureStore

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
SIDE, BITS = 96, 8
"""Of a square: encoders look at nothing else."""
RATES = {"whole.mp4": Fraction(25), "ntsc.mp4": Fraction(30_000, 1001)}
FRAMES = 90

Frames = NDArray[np.uint8]


def picture(number: int) -> Frames:
    """A frame whose bars are the bits of its number."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], bool)
    row = np.repeat(np.where(bits, 235, 20), SIDE // BITS)
    return np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)).astype(np.uint8)


def numbers(frames: Frames) -> list[int]:
    """What the frames show."""
    bars = frames.reshape(len(frames), SIDE, BITS, -1, 3)[:, :, :, 3:-3].mean(axis=(1, 3, 4))
    return [int(number) for number in (bars > 127) @ (1 << np.arange(BITS))]


def film(path: Path, rate: Fraction) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decoded(root: Path, source: str) -> Frames:
    """All frames of a source, without any of the package's own code."""
    path = root / source
    if path.is_dir():
        files = sorted(path.glob("*.png"), key=lambda file: int(file.stem))
        read = [cv2.imread(str(file))[:, :, ::-1] for file in files]
    else:
        with av.open(str(path)) as container:
            read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(read)


CLIPS = {
    "folder": ("images", None, None),
    "short": ("few", None, None),
    "all": ("whole.mp4", None, None),
    "cut": ("whole.mp4", 1.0, 2.28),
    "to the end": ("whole.mp4", 2.5, None),
    "ntsc": ("ntsc.mp4", 0.5, 1.75),
    "über:ntsc": ("ntsc.mp4", 1.7683, 2.9),
}
BEGINS = {"cut": 25, "to the end": 63, "ntsc": 15, "über:ntsc": 53}
"""By hand: the first frame with a time of at least the start."""
PHASE = 5
"""Of the stream ``late``; every clip but the short one has room for it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    for name, count in (("images", 45), ("few", 9)):
        (root / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(root / name / f"{number}.png"), picture(number)[:, :, ::-1])
    (root / "images" / "create.lprof").write_text("a stray")
    for name, rate in RATES.items():
        film(root / name, rate)
    return root


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    clips = [
        Clip(
            id=name,
            split="test" if name == "all" else "train",
            source=source,
            start=start,
            end=end,
            text="Morgen Regen .",
            language="German",
        )
        for name, (source, start, end) in CLIPS.items()
    ]
    made = Manifest.from_clips("toy", clips, notes=["nothing odd"])
    return Manifest(made.corpus, made.table, made.notes, TextConfig(language="German"))


@pytest.fixture(scope="module")
def networks() -> CacheSpec:
    return parse(
        {
            "name": "tiny",
            "streams": {
                "spatial": {
                    "encoder": "open_clip",
                    "weights": "clip-vision",
                    "scales": [1],
                    "stride": 4,
                },
                "motion": {"encoder": "videomae", "weights": "videomae", "tail": "pad"},
                "late": {"encoder": "videomae", "weights": "videomae", "phase": PHASE},
            },
            "store": {"dtype": "float32"},
        },
        CacheSpec,
        where="test",
    )


@pytest.fixture(scope="module")
def go(site: Path, manifest: Manifest, networks: CacheSpec) -> Callable[..., Summary]:
    def run(store_root: Path, **changes: Any) -> Summary:
        options = {"store_root": store_root, "executor": "serial", "device": "cpu"}
        return extract(manifest, site, networks, GOLDEN, **{**options, **changes})

    return run


@pytest.fixture(scope="module")
def stores(go: Callable[..., Summary], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    summary = go(tmp_path_factory.mktemp("features"))
    assert not list(summary.failed)
    return {name: Path(str(path)) for name, path in summary.stores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["spatial", "motion", "late"])
@pytest.mark.parametrize("clip", CLIPS)
def test_each_row_is_of_the_frames_that_are_named(
    stores: dict[str, Path], networks: CacheSpec, site: Path, stream: str, clip: str
) -> None:
    store = FeatureStore.open(stores[stream])
    encoder = registry.build(networks.streams[stream], GOLDEN)
    (rows,) = store.read([clip])
    every = decoded(site, CLIPS[clip][0])
    for row in {0, len(rows) // 2, len(rows) - 1}:
        found = trace(store, clip, row)
        assert found.first is not None
        assert found.last is not None
        assert found.source == CLIPS[clip][0]
        phase = PHASE if stream == "late" and clip != "short" else 0
        assert found.first == BEGINS.get(clip, 0) + phase + row * networks.streams[stream].stride
        assert found.last - found.first + 1 + found.repeated == encoder.span
        frames = every[found.first : found.last + 1]
        assert numbers(frames) == list(range(found.first, found.last + 1))
        np.testing.assert_allclose(encode_clip(encoder, frames)[0], rows[row], atol=1e-2)
        neighbours = {max(found.first - 1, 0), min(found.first + 1, len(every) - 1)}
        for other in neighbours - {found.first}:
            beside = encode_clip(encoder, every[other : other + encoder.span])[0]
            assert np.abs(beside - rows[row]).max() > 1e-2


def test_what_a_window_lacks_is_its_last_frame_repeated(stores: dict[str, Path]) -> None:
    motion = FeatureStore.open(stores["motion"])
    short, last = trace(motion, "short", 0), trace(motion, "folder", 4)
    assert (short.first, short.last, short.repeated) == (0, 8, 7)
    assert (last.first, last.last, last.repeated) == (32, 44, 3)
    assert trace(motion, "folder", 3).repeated == 0


@pytest.mark.parametrize("clip", ["folder", "über:ntsc"])
def test_the_shell_names_files_and_times(stores: dict[str, Path], site: Path, clip: str) -> None:
    line = ["store", "info", str(stores["motion"]), "--clip", clip, "--row", "1"]
    told = json.loads(CliRunner().invoke(app, [*line, "--root", str(site), "--json"]).stdout)
    if clip == "folder":
        assert told["files"] == [f"images/{number}.png" for number in range(8, 24)]
    else:
        ends = [float(number * 1001 / 30_000) for number in (told["first"], told["last"])]
        assert told["seconds"] == pytest.approx(ends)
        assert told["first"] == 53 + 8
    words = CliRunner().invoke(app, line).stdout
    assert f"{told['first']} to {told['last']} of the source" in words
    assert CLIPS[clip][0] in words


def test_the_shell_says_that_a_source_has_changed(stores: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), picture(0))
    line = ["store", "info", str(stores["motion"]), "--clip", "folder", "--row", "0"]
    told = CliRunner().invoke(app, [*line, "--root", str(tmp_path)])
    assert isinstance(told.exception, SystemExit)
    assert "is not the source that was extracted" in told.stderr
    told = CliRunner().invoke(app, [*line[:-2], "--root", str(tmp_path)])
    assert "--clip ID and --row N" in told.stderr


@pytest.mark.slow
def test_what_cannot_be_traced_is_one_clear_error(
    go: Callable[..., Summary], stores: dict[str, Path], tmp_path: Path
) -> None:
    store = FeatureStore.open(stores["spatial"])
    with pytest.raises(UsageError, match="nearest is 'über:ntsc'"):
        trace(store, "uber:ntsc", 0)
    for row in (-1, 3):
        with pytest.raises(UsageError, match="choose one of 0 to 2"):
            trace(store, "short", row)
    part = FeatureStore.open(go(tmp_path, splits=["test"], streams=["spatial"]).stores["spatial"])
    with pytest.raises(StoreError, match="not extracted yet"):
        trace(part, "cut", 0)


def test_a_copy_tells_the_same(stores: dict[str, Path], tmp_path: Path) -> None:
    store = FeatureStore.open(stores["motion"])
    other = FeatureStore.open(copy(store.path, tmp_path).path)
    assert [trace(other, clip, 0) for clip in CLIPS] == [trace(store, clip, 0) for clip in CLIPS]
    assert other.slots() == store.slots()


# --- the manifest beside them -------------------------------------------------------------------


@pytest.mark.slow
def test_the_store_holds_the_manifest_whole(
    go: Callable[..., Summary], manifest: Manifest, tmp_path: Path
) -> None:
    summary = go(tmp_path, splits=["test"], streams=["spatial"])
    kept = Path(str(summary.stores["spatial"])) / "manifest.parquet"
    found = Manifest.read(kept)
    assert (found.corpus, found.text, found.notes) == ("toy", manifest.text, manifest.notes)
    assert found.table.equals(manifest.table)
    assert found.clips() == manifest.clips()


def test_equal_manifests_are_equal_bytes(manifest: Manifest, tmp_path: Path) -> None:
    again = Manifest.read(manifest.write(tmp_path / "again.parquet"))
    assert again.to_bytes() == manifest.to_bytes() == (tmp_path / "again.parquet").read_bytes()
    pieces = Manifest.from_clips("toy", [*manifest.clips("train"), *manifest.clips("test")])
    order = [pieces.table["id"].to_pylist().index(clip) for clip in CLIPS]
    shuffled = Manifest(manifest.corpus, pieces.table.take(order), manifest.notes, manifest.text)
    assert shuffled.to_bytes() == manifest.to_bytes()
