"""Features against outputs of the official release (see encoders/expected.json).

The references were recorded through transformers' torchvision backend: the features of
``torchvision-uint8`` equal them to rounding. ``pil`` is held to transformers' PIL backend, pixel
by pixel, and to the official networks on those pixels, every frame and window of every clip.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import MotionStream, SpatialStream
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder, encode_clip
from spamo_cache.encoders.preprocess import Normalise, Resize, from_processor, prepare
from spamo_cache.encoders.registry import Compute

GOLDEN = Path(__file__).parent / "encoders"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
CLIPS = sorted(EXPECTED["clips"])
STREAMS = {
    "spatial": SpatialStream(encoder="open_clip", weights="clip-vision"),
    "motion": MotionStream(encoder="videomae", weights="videomae"),
}


def frames_of(clip: str) -> NDArray[np.uint8]:
    files = sorted((GOLDEN / "clips" / clip).glob("*.png"))
    return np.stack([cv2.imread(str(file), cv2.IMREAD_COLOR_RGB) for file in files])


def features(
    encoder: Encoder, frames: NDArray[np.uint8], resize: Resize = "torchvision-uint8"
) -> NDArray[np.float32]:
    return encode_clip(encoder, frames, resize=resize)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module", params=sorted(STREAMS))
def stream(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def encoder(stream: str) -> Encoder:
    return registry.build(STREAMS[stream], GOLDEN, "float32", "cpu")


@pytest.mark.parametrize("clip", CLIPS)
def test_features_equal_the_official_release(stream: str, encoder: Encoder, clip: str) -> None:
    reference = np.load(GOLDEN / f"{clip}.npz")[stream]
    found = features(encoder, frames_of(clip))
    assert list(found.shape) == EXPECTED["clips"][clip][stream]
    np.testing.assert_allclose(found, reference, atol=1e-4, rtol=1e-5)
    assert cosine(found, reference).min() >= 0.999999


@pytest.mark.parametrize("clip", CLIPS)
def test_pil_is_as_near_as_a_resize_can_be(stream: str, encoder: Encoder, clip: str) -> None:
    reference = np.load(GOLDEN / f"{clip}.npz")[stream]
    found = features(encoder, frames_of(clip), "pil")
    assert cosine(found, reference).min() >= 0.99999


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize("folder", ["clip-vision", "videomae"])
def test_pixels_equal_the_official_processors(folder: str, backend: str, clip: str) -> None:
    frames = frames_of(clip)
    official = official_pixels(folder, frames, backend)
    given = json.loads((GOLDEN / folder / "preprocessor_config.json").read_text())
    preprocess = from_processor(given, where=folder, size=224)
    resize: Resize = "pil" if backend == "pil" else "torchvision-uint8"
    ours = Normalise(preprocess)(prepare(frames, preprocess.resize_spec, resize))
    # Half a level of 255 is 0.007 here: equal to rounding means equal levels.
    torch.testing.assert_close(ours, official, atol=1e-6, rtol=0)


def official_pixels(folder: str, frames: NDArray[np.uint8], backend: str = "pil") -> torch.Tensor:
    """(frames, 3, 224, 224) as transformers' processor makes them."""
    declare_torchvision_ops()
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(GOLDEN / folder, backend=backend)
    images = [Image.fromarray(frame) for frame in frames]
    given = images if folder == "clip-vision" else [images]
    pixels: torch.Tensor = processor(given, return_tensors="pt")["pixel_values"]
    return pixels.view(-1, 3, 224, 224)


def official_spatial(frames: NDArray[np.uint8]) -> torch.Tensor:
    """CLS before the post-layernorm, of the picture and as a mean over its enlarged quarters."""
    from transformers import CLIPVisionModel

    pixels = official_pixels("clip-vision", frames)
    network = CLIPVisionModel.from_pretrained(GOLDEN / "clip-vision").eval()
    large = functional.interpolate(pixels, size=(448, 448), mode="bicubic", align_corners=False)
    views = [pixels] + [large[..., i : i + 224, j : j + 224] for i in (0, 224) for j in (0, 224)]
    cls = [network(view, output_hidden_states=True).hidden_states[-1][:, 0] for view in views]
    return torch.cat([cls[0], torch.stack(cls[1:]).mean(0)], dim=1)


def official_motion(frames: NDArray[np.uint8]) -> torch.Tensor:
    """Token 0 of the last hidden state, of every full window; a short clip repeats its end."""
    from transformers import VideoMAEModel

    frames = np.concatenate([frames, np.repeat(frames[-1:], max(16 - len(frames), 0), axis=0)])
    network = VideoMAEModel.from_pretrained(GOLDEN / "videomae").eval()
    windows = [frames[k : k + 16] for k in range(0, len(frames) - 15, 8)]
    pixels = torch.stack([official_pixels("videomae", window) for window in windows])
    states: torch.Tensor = network(pixels, output_hidden_states=True).hidden_states[-1]
    return states[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("clip", CLIPS)
def test_pil_features_equal_the_official_networks(stream: str, encoder: Encoder, clip: str) -> None:
    frames = frames_of(clip)
    with torch.inference_mode():
        official = {"spatial": official_spatial, "motion": official_motion}[stream](frames)
    found = features(encoder, frames, "pil")
    assert list(found.shape) == EXPECTED["clips"][clip][stream]
    np.testing.assert_allclose(found, official.numpy(), atol=1e-4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(("compute", "least"), [("bfloat16", 0.9998), ("float16", 0.99999)])
def test_cost_of_narrow_arithmetic(stream: str, compute: Compute, least: float, clip: str) -> None:
    """On a CPU float16 is slow, but it is there: the error is the arithmetic's own."""
    encoder = registry.build(STREAMS[stream], GOLDEN, compute, "cpu")
    reference = np.load(GOLDEN / f"{clip}.npz")[stream]
    assert cosine(features(encoder, frames_of(clip)), reference).min() >= least
