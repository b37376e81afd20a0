"""The encoders can be compiled as a whole: nothing in them depends on the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spamo_cache.config import MotionStream, SpatialStream, StreamSpec
from spamo_cache.encoders import registry

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
SPATIAL = {"encoder": "open_clip", "weights": "clip-vision"}
STREAMS: dict[str, StreamSpec] = {
    "spatial": SpatialStream(**SPATIAL),  # type: ignore[arg-type]
    "mean": SpatialStream(**SPATIAL, output="mean", scales=(1, 3)),  # type: ignore[arg-type]
    "motion": MotionStream(encoder="videomae", weights="videomae"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_encoders_compile_without_a_break(name: str, pixels: Callable[..., torch.Tensor]) -> None:
    encoder: Any = registry.build(STREAMS[name], GOLDEN, "float32")
    shape = (3, 224, 224) if encoder.span == 1 else (16, 3, 224, 224)
    given = pixels(2, *shape)
    wanted = encoder.encode(given)
    torch._dynamo.utils.counters.clear()
    encoder.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(encoder.encode(given), wanted, atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
