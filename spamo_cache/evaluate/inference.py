"""A finished run as a translator, for a split or for a new video's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spamo_cache.config import Pipeline
from spamo_cache.errors import UsageError
from spamo_cache.model.rows import Packed
from spamo_cache.model.translator import Translator
from spamo_cache.model.weights import digest, locate
from spamo_cache.train.checkpoint import RunFolder, read_tensors
from spamo_cache.train.features import evenly


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A translator in evaluation mode and the experiment it came from."""

    folder: RunFolder
    pipeline: Pipeline
    translator: Translator


def load_run(run: Path, *, device: str = "auto") -> LoadedRun:
    """Load the best weights of a finished run.

    Raises:
        UsageError: no run there, or an unfinished one.
        WeightsError: its LLM cannot be found or is no longer the one it was trained with.
    """
    folder = RunFolder(run)
    pipeline = folder.pipeline()
    if not folder.done.exists():
        raise UsageError("holds an unfinished run", where=run, remedy="train it with --resume")
    about = folder.read_about()
    llm = locate(pipeline.llm.weights, Path(about["base"]))
    if digest(llm) != about["parts"]["llm"]:
        raise UsageError(
            "the LLM is not the one this run was trained with", where=llm, remedy="train again"
        )
    translator = Translator(pipeline, about["widths"], llm)
    if pipeline.translate.steps:
        translator.attach()
    translator.restore(read_tensors(folder.model)[0])
    return LoadedRun(folder, pipeline, translator.to(pick_device(device)).eval())


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def translate_features(run: Path | LoadedRun, features: Mapping[str, np.ndarray]) -> str:
    """The sentence for one clip's features, stream -> (rows, width).

    Raises:
        UsageError: a stream of the run is missing, empty or of another width.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    device = loaded.translator.prompt.device
    about = loaded.folder.read_about()["widths"]
    longest = max((len(rows) for rows in features.values()), default=0)
    streams = {}
    for name in loaded.pipeline.streams:
        rows = features.get(name)
        if rows is None or rows.ndim != 2 or not len(rows) or rows.shape[1] != about[name]:
            shape = None if rows is None else rows.shape
            raise UsageError(
                f"stream {name!r} must be (rows, {about[name]}), got {shape}",
                remedy="extract the video with the run's cache spec",
            )
        if longest > loaded.pipeline.max_frames:
            kept = -(-len(rows) * loaded.pipeline.max_frames // longest)
            rows = rows[evenly(len(rows), kept)]
        packed = torch.from_numpy(np.ascontiguousarray(rows)).float()
        streams[name] = Packed(packed, torch.tensor([len(rows)])).to(device)
    return loaded.translator.generate(streams, loaded.pipeline.decode)[0]
