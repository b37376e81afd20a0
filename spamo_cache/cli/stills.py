"""A few frames of clips as small JPEGs, for pages; looks at the raw corpus."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache.errors import VideoError

if TYPE_CHECKING:
    import numpy as np

    from spamo_cache.datasets.manifest import Clip

HEIGHT = 96
_QUALITY = 80


def stills(root: Path, clips: Iterable[Clip], count: int) -> dict[str, list[tuple[int, bytes]]]:
    """Clip id -> (frame number, JPEG) at even distances; clips that cannot be read are left out.

    Needs the libraries of the extra ``extract``; without them there are no frames.
    """
    try:
        from spamo_cache.video import read_clip
    except ModuleNotFoundError:
        return {}
    found = {}
    for clip in clips:
        try:
            frames = read_clip(root, clip)
        except VideoError:
            continue
        places = sorted({(2 * i + 1) * len(frames) // (2 * count) for i in range(count)})
        found[clip.id] = [(place, _jpeg(frames[place])) for place in places]
    return found


def _jpeg(frame: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(frame)
    width = max(1, round(image.width * HEIGHT / image.height))
    kept = BytesIO()
    image.resize((width, HEIGHT)).save(kept, "JPEG", quality=_QUALITY)
    return kept.getvalue()
