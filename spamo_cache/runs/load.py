"""Opening a finished run: its pipeline, its language model, its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from spamo_cache import checkpoints, config, devices
from spamo_cache.config import Pipeline
from spamo_cache.errors import UsageError, WeightsError
from spamo_cache.model.prompts import Prompts, prompts_of
from spamo_cache.model.translator import Translator
from spamo_cache.model.weights import digest, locate
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.tensors import read_tensors


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
    encoders: Mapping[str, nn.Module] | None = None,
    llm: Path | None = None,
) -> LoadedRun:
    """Load the best weights of a finished run.

    Args:
        encoders: stream -> the encoder of its frames; needed where the run tuned its encoders.
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
    own = {name: one for name, one in (encoders or {}).items() if name in pipeline.streams}
    if pipeline.encoders is not None and not own:
        raise UsageError(
            "tuned its encoders, and can only be evaluated, from the corpus's frames", where=run
        )
    translator = Translator(pipeline, about.widths, found, own).to(on)
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
