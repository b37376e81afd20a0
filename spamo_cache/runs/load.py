"""Opening a finished run: its pipeline, its stores, its language model and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import nn

from spamo_cache import checkpoints, config, devices
from spamo_cache.config import Pipeline
from spamo_cache.errors import StoreError, UsageError, WeightsError
from spamo_cache.model.prompts import Prompts, prompts_of
from spamo_cache.model.translator import Translator
from spamo_cache.model.weights import digest, locate
from spamo_cache.runs.folder import RunFolder, RunSummary
from spamo_cache.runs.records import Evaluation, read_evaluation
from spamo_cache.runs.tensors import read_tensors
from spamo_cache.store.inventory import by_fingerprint
from spamo_cache.store.reader import FeatureStore


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run; what takes long to load is loaded when it is first asked for.

    Attributes:
        llm: folder of the language model that it was trained with.
        encoders: stream -> the encoder of its frames, where it tuned its encoders.
        roots: to look for its stores in; None is SPAMO_CACHE's.
    """

    folder: RunFolder
    pipeline: Pipeline
    llm: Path
    device: str
    encoders: Mapping[str, nn.Module] = field(default_factory=dict)
    roots: Sequence[str] | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def summary(self) -> RunSummary | None:
        """What training achieved."""
        return self.folder.summary()

    @cached_property
    def stores(self) -> dict[str, FeatureStore]:
        """Stream -> the store it was trained from, wherever that lies now."""
        return open_stores(self.folder, self.roots)

    @cached_property
    def translator(self) -> Translator:
        """The best weights, in evaluation mode.

        Raises:
            DamagedError: they are not those that were written.
        """
        weights, widths = self.folder.weights(), self.folder.read_about().widths
        translator = Translator(self.pipeline, widths, self.llm, self.encoders).to(self.device)
        if self.pipeline.translate.steps:
            translator.attach()
        translator.restore(read_tensors(weights)[0])
        return translator.eval()

    @cached_property
    def prompts(self) -> Prompts:
        return prompts_of(self.pipeline, self.folder.sentences(), self.translator.tokens)

    def evaluation(self, name: str = "test") -> Evaluation:
        """The scorecard and the translations of an evaluation that was made.

        Args:
            name: of the evaluation: ``test``, ``test-shuffled``, ``test@motion.stride=4``.

        Raises:
            UsageError: there is no such evaluation of the run.
        """
        return read_evaluation(self.path, name)


def load_run(
    run: Path,
    *,
    device: str = "auto",
    encoders: Mapping[str, nn.Module] | None = None,
    llm: Path | None = None,
    roots: Sequence[str] | None = None,
) -> Run:
    """Open a finished run.

    Args:
        run: its folder.
        encoders: stream -> the encoder of its frames; needed where the run tuned its encoders.
        llm: folder of its LLM, where that has moved.
        roots: to look for its stores in; None is SPAMO_CACHE's.

    Raises:
        UsageError: no run there, an unfinished one, or one that reads frames and is given none;
            an unknown device, or a GPU that is not there.
        WeightsError: its LLM cannot be found or is no longer the one it was trained with.
        DamagedError: a file of the run is not what it was.
    """
    on, folder = devices.resolve(device), RunFolder(run)
    pipeline = folder.pipeline()
    folder.weights()  # a finished run, or an error that says so
    own = {name: one for name, one in (encoders or {}).items() if name in pipeline.streams}
    if pipeline.encoders is not None and not own:
        raise UsageError(
            "tuned its encoders, and can only be evaluated, from the corpus's frames",
            where=folder.path,
        )
    return Run(
        folder=folder,
        pipeline=pipeline,
        llm=_find_llm(folder, pipeline, llm),
        device=on,
        encoders=own,
        roots=roots,
    )


def open_stores(
    folder: RunFolder, roots: Sequence[str] | None = None, *, split: str | None = None
) -> dict[str, FeatureStore]:
    """The stores a run was trained from, wherever they lie now; where they lay is but a hint.

    Args:
        roots: to look for them in; None is SPAMO_CACHE's.
        split: the clips that will be read; a store that has them is preferred.

    Raises:
        StoreError: no root holds one of them, or they were features in memory.
        UsageError: the split's clips are of several corpora.
    """
    about, searched = folder.read_about(), config.roots() if roots is None else roots
    if lost := [name for name in about.fingerprints if name not in about.stores]:
        raise StoreError(
            f"features of stream {lost[0]!r} were held in memory",
            where=folder.path,
            remedy="hand them to evaluate() again",
        )
    if split == "train" and about.corpora:
        raise UsageError(
            "was trained on several corpora, whose training clips lie in stores of their own",
            where=folder.path,
            remedy="take its dev or test, which are of one corpus",
        )
    manifest = folder.sentences()
    known = split is not None and split in manifest.splits
    clips = manifest.select([split]).table["id"].to_pylist() if known and split else []
    return {
        name: by_fingerprint(searched, fingerprint, hint=about.places[name], clips=clips)
        for name, fingerprint in about.fingerprints.items()
    }


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
