"""Translating features of clips that are in no corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spamo_cache.errors import UsageError
from spamo_cache.model.prompts import Sentence
from spamo_cache.runs.load import LoadedRun, load_run
from spamo_cache.train.features import Bank, MemoryFeatures, crop_of

_CLIP = "new"


def translate_features(run: Path | LoadedRun, features: Mapping[str, np.ndarray]) -> str:
    """The sentence for one clip's features, stream -> (rows, width).

    Raises:
        UsageError: a stream of the run is missing, empty or of another width.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    pipeline, translator = loaded.pipeline, loaded.translator
    widths = loaded.folder.read_about().widths
    stores = {
        name: MemoryFeatures({_CLIP: _checked(features.get(name), name, widths[name])})
        for name in pipeline.streams
    }
    streams = Bank(
        stores, [_CLIP], max_frames=pipeline.max_frames, memory=0, crop=crop_of(pipeline)
    ).packed([0])
    prompts = loaded.prompts.ids([Sentence(_CLIP, "", pipeline.text.language)])
    return translator.generate(
        {name: rows.to(translator.device) for name, rows in streams.items()},
        pipeline.decode,
        prompts.to(translator.device),
    )[0]


def _checked(rows: np.ndarray | None, name: str, width: int) -> np.ndarray:
    if rows is None or rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise UsageError(
            f"stream {name!r} must be (rows, {width}), got {None if rows is None else rows.shape}",
            remedy="extract the video with the run's cache spec",
        )
    return rows
