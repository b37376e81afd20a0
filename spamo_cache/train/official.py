"""The official release's checkpoint to a run of ours, and a run to such a checkpoint."""

from __future__ import annotations

import pickle
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spamo_cache import io
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import ConfigError, UsageError, WeightsError
from spamo_cache.model.translator import Translator
from spamo_cache.model.weights import digest, locate
from spamo_cache.runs.folder import RunFolder, RunSummary
from spamo_cache.runs.load import load_run
from spamo_cache.runs.tensors import write_tensors
from spamo_cache.train.features import Features
from spamo_cache.train.loop import TrainState
from spamo_cache.train.run import describe

_OWN_LLM = "imported-llm"
"""Folder inside the run with the checkpoint's LLM, where that is not the pipeline's."""

_SHAPE: Mapping[str, Mapping[str, Any]] = {
    "adapter": {"tcn": "k5 p2 k5 p2", "fusion": "time", "scale": "none"},
    "align": {"center": False},
    "llm": {"quantise": "none"},
}
"""What the release computes and a checkpoint does not say."""


def import_checkpoint(
    checkpoint: Path,
    pipeline: Pipeline,
    *,
    base: Path,
    manifest: Manifest,
    stores: Mapping[str, Features],
    out: Path,
) -> RunSummary:
    """Make an official checkpoint a run: to evaluate, or to go on training.

    Where the checkpoint's LLM is not the pipeline's, it is kept inside the run, whose
    ``config.yaml`` names it then; otherwise the run is as small as any.

    Args:
        pipeline: as it would be trained; LoRA, prompt and decoding are in no checkpoint.
        base: folder of the pipeline's file.
        stores: stream -> features that it is to be evaluated on.
        out: a folder that does not exist yet, or an empty one.

    Raises:
        ConfigError: the pipeline is not of the release's shape.
        WeightsError: the file is no official checkpoint, or of other widths.
        UsageError: ``out`` holds something.
    """
    _check_shape(pipeline)
    llm = locate(pipeline.llm.weights, base)
    state = read_state(checkpoint)
    widths = {name: stores[name].width for name in pipeline.streams}
    translator = Translator(pipeline, widths, llm)
    translator.attach()
    foreign = _take_over(translator, state, checkpoint)
    folder = RunFolder(out)
    if folder.about.exists():
        raise UsageError("holds a run already", where=out, remedy="choose another folder with -o")
    learnt = {name: value.clone() for name, value in translator.trained().items()}
    imported = {"name": checkpoint.name, "sha256": io.file_sha256(checkpoint)}
    with _beside(out) as work:
        if foreign:
            # Not in the folder yet: it has to be empty when the run is begun.
            io.make_folders(work)
            _keep_llm(translator, llm, work)
            pipeline, llm = _with_llm(pipeline, _OWN_LLM), work
        about = describe(pipeline, base, manifest, stores, digest(llm))
        folder.begin(pipeline, about.model_copy(update={"imported": imported}), manifest)
        if foreign:
            work.rename(out / _OWN_LLM)
    return _finish(folder, learnt)


def export_checkpoint(run: Path, file: Path) -> int:
    """Write a run under the official release's names, LLM and all; the number of tensors.

    Raises:
        UsageError: no finished run, or one that the release has no names for.
    """
    loaded = load_run(run, device="cpu")
    _check_shape(loaded.pipeline)
    state = {
        their_name(name): value
        for name, value in loaded.translator.state_dict().items()
        if name not in OURS_ALONE
    }
    with _beside(file) as work:
        torch.save({"state_dict": state}, work)
        work.replace(file)
    return len(state)


def _check_shape(pipeline: Pipeline) -> None:
    wrong = [
        f"{group}.{key} is {getattr(getattr(pipeline, group), key)!r}, not {value!r}"
        for group, keys in _SHAPE.items()
        for key, value in keys.items()
        if getattr(getattr(pipeline, group), key) != value
    ]
    if pipeline.streams != ("spatial", "motion"):
        wrong.append(f"streams are {', '.join(pipeline.streams)}, not spatial, motion")
    if pipeline.llm.tuning.mode != "lora":
        wrong.append(f"llm.tuning.mode is {pipeline.llm.tuning.mode!r}, not 'lora'")
    if wrong:
        raise ConfigError(
            f"not the official release's model: {'; '.join(wrong)}", where=pipeline.name
        )


@torch.no_grad()
def _take_over(translator: Translator, state: Mapping[str, Tensor], checkpoint: Path) -> bool:
    """Copy a checkpoint into the translator; whether it changed weights that are not trained."""
    own = translator.state_dict()
    trained = translator.trained().keys()
    odd = sorted((state.keys() - own.keys()) | (trained - state.keys() - OURS_ALONE))
    odd = odd or sorted(name for name, value in state.items() if value.shape != own[name].shape)
    if odd:
        raise WeightsError(
            f"{len(odd)} tensors do not fit the pipeline, first {odd[0]!r}",
            where=checkpoint,
            remedy="adjust adapter.width, llm.weights, llm.tuning and the stores to it",
        )
    frozen = state.keys() - trained
    foreign = not all(_same(state[name], own[name]) for name in frozen)
    for name, value in state.items():
        own[name].copy_(value)
    if foreign:
        translator.adapter.rms.copy_(own["embeddings.weight"].float().square().mean().sqrt())
    return foreign


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal as far as the less precise of the two can say."""
    dtype = min((one.dtype, other.dtype), key=lambda kind: kind.itemsize)
    return torch.equal(one.to(dtype), other.to(dtype))


def _keep_llm(translator: Translator, source: Path, target: Path) -> None:
    """A Hugging Face folder with the translator's LLM, less its LoRA, and its tokenizer."""
    for path in source.iterdir():
        if path.is_file() and path.suffix in {".json", ".model", ".txt"}:
            shutil.copy(path, target / path.name)
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    llm: Any = translator.llm
    llm.model.unload().save_pretrained(target)


def _with_llm(pipeline: Pipeline, weights: str) -> Pipeline:
    plain = pipeline.model_dump(mode="json")
    return Pipeline.model_validate(plain | {"llm": plain["llm"] | {"weights": weights}})


def _finish(folder: RunFolder, learnt: Mapping[str, Tensor]) -> RunSummary:
    write_tensors(folder.model, learnt)
    # With this, training goes on at the first step of translation.
    state = asdict(TrainState(phase="translate"))
    folder.save_state({f"model.{name}": value for name, value in learnt.items()}, state)
    folder.metrics.touch()
    summary = RunSummary(
        path=folder.path,
        reused=False,
        best_bleu=None,
        best_step=0,
        recall=None,
        seconds=0.0,
        trained=sum(value.numel() for name, value in learnt.items() if name not in OURS_ALONE),
        failed={},
    )
    folder.finish(summary)
    return summary


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, of which nothing is left after the block."""
    io.make_folders(path.parent)
    io.sweep(path.parent)
    new = io.temporary(path.parent)
    try:
        yield new
    finally:
        io.remove(new)


STREAMS = {"spatial": "spatio_proj", "motion": "spatiotemp_proj"}
_ADAPTER = {
    "fusion_proj.0": "adapter.mlp.0",
    "fusion_proj.2": "adapter.mlp.2",
    "temporal_encoder.temporal_conv.0": "adapter.tcn.convs.0",
    "temporal_encoder.temporal_conv.1": "adapter.tcn.norms.0",
    "temporal_encoder.temporal_conv.4": "adapter.tcn.convs.1",
    "temporal_encoder.temporal_conv.5": "adapter.tcn.norms.1",
} | {theirs: f"adapter.projections.{stream}" for stream, theirs in STREAMS.items()}


_OFFICIAL = {ours: theirs for theirs, ours in _ADAPTER.items()}

OURS_ALONE = frozenset({"adapter.rms", "align.center", "embeddings.weight"})
"""Names of ours that an official checkpoint has nothing for: not used there, or held twice."""


def our_name(name: str) -> str:
    """``fusion_proj.0.weight`` -> ``adapter.mlp.0.weight``; peft names stay below ``llm.model``."""
    if name == "logit_scale":
        return "align.log_scale"
    module, _, leaf = name.rpartition(".")
    if module in _ADAPTER:
        return f"{_ADAPTER[module]}.{leaf}"
    return f"llm.model.{name.removeprefix('t5_model.')}"


def their_name(name: str) -> str:
    """The reverse of :func:`our_name`."""
    if name == "align.log_scale":
        return "logit_scale"
    module, _, leaf = name.rpartition(".")
    if module in _OFFICIAL:
        return f"{_OFFICIAL[module]}.{leaf}"
    return f"t5_model.{name.removeprefix('llm.model.')}"


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of an official checkpoint, read without running any code in it.

    What Lightning keeps beside it (settings, callbacks) may be objects of any class; they are
    read as plain dictionaries.

    Returns:
        This package's names -> tensors: adapter, temperature and the whole LLM with its LoRA.

    Raises:
        WeightsError: not such a checkpoint.
    """
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        with torch.serialization.safe_globals([(_StandIn, name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot be read as a checkpoint: {' '.join(str(error).split())[:200]}", where=path
        ) from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not _ADAPTER.keys() <= _modules(state):
        raise WeightsError("is no checkpoint of the official release", where=path)
    return {our_name(name): value for name, value in state.items()}


class _StandIn:
    """Instead of an object of an unknown class, an empty dictionary, which torch agrees to fill."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _modules(state: Mapping[str, Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in state}
