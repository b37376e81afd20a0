"""What a pipeline reads: the features of its stores or, where it tunes its encoders, the frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache.cli import inputs, options
from spamo_cache.config import Pipeline
from spamo_cache.errors import UsageError

if TYPE_CHECKING:
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.train import Features


def streams(
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
    spec, path = inputs.spec_used(pipeline, base)
    plain = {name: build(spec.streams[name], path.parent, "float32") for name in stores}
    encoders = {
        name: TunableEncoder(encoder, pipeline.encoders, pipeline.seed)
        for name, encoder in plain.items()
    }
    threads = pipeline.threads or cores()
    return frame_streams(stores, encoders, folder, resize=spec.frames.resize, threads=threads)


def _root(corpus: str, root: Path | None) -> Path:
    if root is not None:
        return inputs.folder(root)
    if corpus == options.EMBEDDED:
        return inputs.corpus_root(corpus, None)
    raise UsageError(
        "its encoders are tuned, which takes the frames",
        where=f"corpus {corpus}",
        remedy="name the folder of the raw corpus by --root DIR",
    )
