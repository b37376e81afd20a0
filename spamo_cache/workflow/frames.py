"""Frames of the raw corpus: for pipelines that tune their encoders, and for pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache.config import Pipeline
from spamo_cache.errors import UsageError, VideoError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    import numpy as np

    from spamo_cache.datasets.manifest import Clip
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.train import Features


def input_streams(
    pipeline: Pipeline, stores: Mapping[str, FeatureStore], base: Path, root: Path | None
) -> Mapping[str, Features]:
    """``stores``, or their clips as frames with the encoders that are to be tuned.

    Args:
        base: folder of the pipeline's file.
        root: of the raw corpus; needed for frames only.

    Raises:
        UsageError: frames are needed, and nobody says where they lie.
        ConfigError: the encoders cannot be tuned as the pipeline says.
        WeightsError: the spec's weights are not those of the stores.
    """
    if pipeline.encoders is None:
        return stores
    from spamo_cache.encoders.registry import build
    from spamo_cache.encoders.tunable import TunableEncoder
    from spamo_cache.extract.frames import frame_streams
    from spamo_cache.extract.worker import cores

    folder = _root(pipeline.corpus, root)
    spec, path = resolve.spec_used(pipeline, base)
    plain = {name: build(spec.streams[name], path.parent, "float32") for name in stores}
    encoders = {
        name: TunableEncoder(encoder, pipeline.encoders, pipeline.seed)
        for name, encoder in plain.items()
    }
    threads = pipeline.threads or cores()
    return frame_streams(stores, encoders, folder, resize=spec.frames.resize, threads=threads)


def _root(corpus: str, root: Path | None) -> Path:
    if root is not None:
        return resolve.folder(root)
    if corpus == resolve.EMBEDDED:
        return resolve.corpus_root(corpus, None)
    raise UsageError(
        "its encoders are tuned, which takes the frames",
        where=f"corpus {corpus}",
        remedy="name the folder of the raw corpus by --root DIR",
    )


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
