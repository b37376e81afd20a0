"""What the encoders compute, against the libraries' own networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.nn import functional

from spamo_cache.config import MotionStream, SpatialStream, StreamSpec
from spamo_cache.encoders import openclip, registry
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.encoders.motion import MotionEncoder
from spamo_cache.encoders.preprocess import Normalise
from spamo_cache.encoders.registry import Compute
from spamo_cache.encoders.spatial import SpatialEncoder

SPATIAL = SpatialStream(encoder="open_clip", weights="clip-vision")
MOTION = MotionStream(encoder="videomae", weights="videomae")
Pixels = Callable[..., torch.Tensor]

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


def spatial(**changes: object) -> SpatialEncoder:
    options = {"encoder": "open_clip", "weights": "clip-vision", **changes}
    return SpatialEncoder(SpatialStream(**options), GOLDEN)  # type: ignore[arg-type]


def motion(**changes: object) -> MotionEncoder:
    options = {"encoder": "videomae", "weights": "videomae", **changes}
    return MotionEncoder(MotionStream(**options), GOLDEN)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, 0, 1, -2])
@pytest.mark.parametrize("output", ["cls-pre-norm", "cls", "mean"])
def test_outputs_are_those_of_open_clip(pixels: Pixels, layer: int, output: str) -> None:
    stream = SpatialStream(encoder="open_clip", weights="clip-vision")
    tower = openclip.load(stream, GOLDEN)
    frames = pixels(3, 3, 224, 224)
    with torch.inference_mode():
        given = tower.visual.forward_intermediates(
            Normalise(tower.preprocess)(frames),
            normalize_intermediates=output == "cls",
            output_fmt="NLC",
            output_extra_tokens=True,
            intermediates_only=True,
        )
    prefix, patches = given["image_intermediates_prefix"], given["image_intermediates"]
    wanted = patches[layer].mean(1) if output == "mean" else prefix[layer][:, 0]
    found = spatial(scales=(1,), layer=layer, output=output).encode(frames)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scales", [(1,), (2,), (1, 2), (3, 1)])
def test_scales_are_means_over_crops_of_the_enlarged_image(
    pixels: Pixels, scales: tuple[int, ...]
) -> None:
    frames = pixels(2, 3, 224, 224)
    alone = spatial(scales=(1,))
    base = alone.normalise(frames)
    wanted = []
    for scale in scales:
        size = (224 * scale, 224 * scale)
        large = functional.interpolate(base, size=size, mode="bicubic", align_corners=False)
        crops = [
            large[..., 224 * i : 224 * (i + 1), 224 * j : 224 * (j + 1)]
            for i in range(scale)
            for j in range(scale)
        ]
        wanted.append(torch.stack([alone.network(crop) for crop in crops]).mean(0))
    encoder = spatial(scales=scales)
    assert encoder.width == 48 * len(scales)
    found = encoder.encode(frames)
    torch.testing.assert_close(found, torch.cat(wanted, -1), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, 0, 2])
@pytest.mark.parametrize("token", [0, "mean"])
def test_motion_layers_are_hidden_states_of_transformers(
    pixels: Pixels, layer: int, token: int | str
) -> None:
    from transformers import VideoMAEModel

    video = pixels(2, 16, 3, 224, 224)
    encoder = motion(layer=layer, token=token)
    with torch.inference_mode():
        network = VideoMAEModel.from_pretrained(GOLDEN / "videomae").eval()
        states = network(encoder.normalise(video), output_hidden_states=True).hidden_states
    wanted = states[layer][:, 0] if token == 0 else states[layer].mean(1)
    torch.testing.assert_close(encoder.encode(video), wanted, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("tail", "stride", "frames", "starts"),
    [
        ("drop", 8, 0, []),
        ("drop", 8, 1, [0]),
        ("drop", 8, 16, [0]),
        ("drop", 8, 23, [0]),
        ("drop", 8, 24, [0, 8]),
        ("drop", 5, 27, [0, 5, 10]),
        ("pad", 8, 9, [0]),
        ("pad", 8, 16, [0]),
        ("pad", 8, 17, [0, 8]),
        ("pad", 8, 25, [0, 8, 16]),
    ],
)
def test_windows(tail: str, stride: int, frames: int, starts: list[int]) -> None:
    encoder = motion(tail=tail, stride=stride)
    assert list(encoder.starts(frames)) == starts
    assert encoder.rows(frames) == len(starts)


@pytest.mark.parametrize(
    ("tail", "frames", "starts"),
    [
        ("drop", 0, []),
        ("drop", 9, [0]),
        ("drop", 18, [2]),  # the window ends with the clip
        ("drop", 21, [5]),
        ("drop", 28, [5]),
        ("drop", 29, [5, 13]),
        ("pad", 18, [2]),
        ("pad", 22, [5, 13]),
    ],
)
def test_windows_begin_with_the_phase_where_there_is_room(
    tail: str, frames: int, starts: list[int]
) -> None:
    encoder = motion(tail=tail, phase=5)
    assert list(encoder.starts(frames)) == starts
    assert encoder.rows(frames) == len(starts)


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
@pytest.mark.parametrize("stream", [SPATIAL, MOTION], ids=["spatial", "motion"])
def test_pixels_are_normalised_and_enlarged_in_float32(
    stream: StreamSpec, compute: Compute
) -> None:
    narrow, wide = (cast("Any", registry.build(stream, GOLDEN, c)) for c in (compute, "float32"))
    kept, wanted = (
        {k: v for k, v in encoder.state_dict().items() if not k.startswith("network.")}
        for encoder in (narrow, wide)
    )
    assert {"normalise.scale", "normalise.shift"} <= set(kept)
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)
    assert {p.dtype for p in narrow.network.parameters()} == {getattr(torch, compute)}


def test_towers_need_no_compiled_torchvision() -> None:
    from spamo_cache.compat import declare_torchvision_ops

    assert declare_torchvision_ops() is declare_torchvision_ops()
    import open_clip

    assert "ViT-L-14-quickgelu" in open_clip.list_models()


@pytest.mark.parametrize(("frames", "frame_numbers"), [(0, []), (1, [0]), (4, [0]), (9, [0, 4, 8])])
def test_a_stride_keeps_every_so_many_frames(frames: int, frame_numbers: list[int]) -> None:
    encoder = spatial(stride=4)
    assert list(encoder.starts(frames)) == frame_numbers
    assert encoder.rows(frames) == len(frame_numbers)


@pytest.mark.slow
def test_a_stride_changes_no_row(pixels: Pixels) -> None:
    frames = pixels(6, 224, 224, 3).numpy()
    every, fourth = (encode_clip(spatial(stride=stride), frames) for stride in (1, 4))
    torch.testing.assert_close(
        torch.from_numpy(fourth), torch.from_numpy(every[::4]), atol=1e-5, rtol=1e-5
    )
