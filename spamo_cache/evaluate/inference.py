"""A finished run as a translator, for a split or for a new video's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spamo_cache import checkpoints, config, devices
from spamo_cache.config import Pipeline
from spamo_cache.errors import UsageError, WeightsError
from spamo_cache.model.prompts import Prompts, Sentence
from spamo_cache.model.translator import Translator
from spamo_cache.model.weights import digest, locate
from spamo_cache.train.batches import prompts_of
from spamo_cache.train.checkpoint import RunFolder, read_tensors
from spamo_cache.train.features import Bank, Features, MemoryFeatures, crop_of, encoders_of

_CLIP = "new"


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A translator in evaluation mode and the experiment it came from."""

    folder: RunFolder
    pipeline: Pipeline
    translator: Translator
    prompts: Prompts


def load_run(
    run: Path,
    *,
    device: str = "auto",
    stores: Mapping[str, Features] | None = None,
    llm: Path | None = None,
) -> LoadedRun:
    """Load the best weights of a finished run.

    Args:
        stores: what it is to read; needed where it tuned its encoders, which are theirs.
        llm: folder of its LLM, where that has moved.

    Raises:
        UsageError: no run there, an unfinished one, or one that reads frames and is given none;
            an unknown device, or a GPU that is not there.
        WeightsError: its LLM cannot be found or is no longer the one it was trained with.
        DamagedError: a file of the run is not what it was.
    """
    on = devices.resolve(device)
    folder = RunFolder(run)
    pipeline = folder.pipeline()
    weights = folder.weights()
    about = folder.read_about()
    found = _find_llm(folder, pipeline, llm)
    encoders = encoders_of(stores or {}, pipeline.streams)
    if pipeline.encoders is not None and not encoders:
        raise UsageError(
            "tuned its encoders, and can only be evaluated, from the corpus's frames", where=run
        )
    translator = Translator(pipeline, about.widths, found, encoders).to(on)
    if pipeline.translate.steps:
        translator.attach()
    translator.restore(read_tensors(weights)[0])
    prompts = prompts_of(pipeline, folder.sentences(), translator.tokens)
    return LoadedRun(folder, pipeline, translator.eval(), prompts)


def _find_llm(folder: RunFolder, pipeline: Pipeline, given: Path | None) -> Path:
    """The folder of the LLM a run was trained with, told by its digest.

    Looked for within the run (an imported one may hold its own), where it lay at training, among
    the pipelines that come with the package, and on the hub.
    """
    about, name = folder.read_about(), pipeline.llm.weights
    bases = (folder.path, Path(about.base), config.shipped("pipelines") / pipeline.corpus)
    places = [base / Path(name).expanduser() for base in bases] if given is None else [given]
    there = [place for place in dict.fromkeys(places) if (place / "config.json").is_file()]
    if not there and given is None and checkpoints.is_hub_id(name):
        there = [locate(name, Path(about.base))]
    for place in there:
        if digest(place) == about.llm:
            return place.resolve()
    raise WeightsError(
        f"the LLM is not the one this run was trained with, {about.llm[:12]}"
        if there
        else f"the LLM that this run was trained with, {about.llm[:12]}, was not found",
        where=", ".join(map(str, there or places)),
        remedy="say where it lies by --llm DIR",
    )


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
