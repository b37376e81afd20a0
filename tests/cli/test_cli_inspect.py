"""What the encoders see of a clip, drawn without their weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from spamo_cache.config import CacheSpec, load
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.encoders.registry import build, outline
from spamo_cache.encoders.spatial import SpatialEncoder
from spamo_cache.workflow import stores
from spamo_cache.workflow.inspect import scale_tiles

Call = Callable[..., Result]


def test_an_outline_prepares_frames_and_places_rows_as_the_encoder_does(made: Path) -> None:
    changes = ["streams.motion.stride=3", "streams.motion.phase=2", "streams.motion.tail=pad"]
    streams = load(made / "spec.yaml", CacheSpec, changes).streams
    for stream in streams.values():
        whole, bare = build(stream, made), outline(stream, made)
        assert bare.preprocess == whole.preprocess
        for frames in (1, 5, 16, 17, 40):
            assert list(bare.starts(frames)) == list(whole.starts(frames))


def test_tiles_are_those_that_the_encoder_is_shown(made: Path) -> None:
    stream = load(made / "spec.yaml", CacheSpec, ["streams.spatial.scales=[1,2]"]).streams[
        "spatial"
    ]
    encoder = build(stream, made)
    assert isinstance(encoder, SpatialEncoder)
    side = encoder.preprocess.resize_spec.size
    # Smooth, so that nothing overshoots what a pixel can hold.
    ramp = np.linspace(20, 220, side)[:, None, None] * np.ones((1, side, 3))
    square = ramp.round().astype(np.uint8)
    base = encoder.normalise(torch.from_numpy(square).permute(2, 0, 1)[None])
    for index, scale in enumerate((1, 2)):
        shown = encoder._crops(base, index)[0]
        tiles = torch.from_numpy(np.stack(scale_tiles(square, scale))).permute(0, 3, 1, 2)
        assert torch.allclose(encoder.normalise(tiles), shown, atol=0.02)
        assert len(tiles) == scale * scale


@pytest.mark.slow
def test_a_sheet_needs_no_weights(lab: Path, call: Call) -> None:
    for weights in lab.glob("*/*.safetensors"):
        weights.unlink()
    found = call("inspect test-1 --manifest manifest.csv --spec spec.yaml --rows 3 -o s.png")
    assert found.stdout.split() == ["s.png"]
    with Image.open(lab / "s.png") as sheet:
        assert sheet.width == 1600
        tall = sheet.height
    # A folder of frames, and one stream of it; the two are told apart by their endings.
    call("inspect frames/test-1 --spec spec.yaml --streams motion --rows 3 -o s.jpg")
    with Image.open(lab / "s.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.height < tall


def test_a_corpus_that_was_extracted_needs_its_name_alone(lab: Path, call: Call) -> None:
    manifest = Manifest.read(lab / "manifest.csv", corpus="mine")
    stores.remember(manifest, [lab / "features"], root=str(lab))
    call("inspect train-5 --dataset mine --spec spec.yaml --streams spatial --rows 1 -o s.png")
    assert (lab / "s.png").is_file()


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("test-11 --manifest manifest.csv --spec spec.yaml", 2, "nearest is 'test-1'"),
        ("test-1 --manifest manifest.csv --spec spec.yaml -o s.gif", 2, "s.gif"),
        ("test-1 --manifest manifest.csv --spec spec.yaml --streams sptial", 2, "sptial"),
        ("test-1 --manifest manifest.csv --root spec.yaml --spec spec.yaml", 2, "spec.yaml"),
        ("test-1 --manifest manifest.csv --root clip-vision --spec spec.yaml", 1, "is missing"),
        ("manifest.csv --spec spec.yaml", 1, "manifest.csv"),
        ("frames/test-1 --spec spec.yaml -o spec.yaml/s.png", 1, "spec.yaml"),
        ("frames/test-1 --spec bare.yaml", 1, "config.json"),
    ],
)
def test_what_is_missing_is_one_error(
    lab: Path, call: Call, line: str, code: int, told: str
) -> None:
    (lab / "bare").mkdir()
    text = (lab / "spec.yaml").read_text().replace("weights: videomae", "weights: ./bare")
    (lab / "bare.yaml").write_text(text)
    said = call("inspect", line, code=code).stderr
    assert said.startswith("error: ")
    assert told in said
    assert not list(lab.glob("s*.png"))
