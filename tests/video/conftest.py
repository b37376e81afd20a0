from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import videos

Maker = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """``make(name="video.mp4", **encoding)`` -> a video, see :func:`videos.encode`."""

    def build(name: str = "video.mp4", **encoding: object) -> Path:
        return videos.encode(tmp_path / name, **encoding)  # type: ignore[arg-type]

    return build
