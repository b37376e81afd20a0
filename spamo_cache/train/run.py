"""Train one pipeline from features to a run folder."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

import spamo_cache
from spamo_cache.compat import cpu_threads
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.mixture import corpus_of
from spamo_cache.datasets.overlap import same_sentences, same_videos
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.model.llm import check_llm, check_targets
from spamo_cache.model.prompts import check_prompts
from spamo_cache.model.text import normalise
from spamo_cache.model.tokens import coverage, cut_words, unknown_words
from spamo_cache.model.weights import digest, locate
from spamo_cache.runs.folder import (
    InitialWeights,
    RunFolder,
    RunRecord,
    RunSummary,
    TrainedCorpus,
    identity,
)
from spamo_cache.runs.tensors import read_tensors
from spamo_cache.store.attributes import origin_of
from spamo_cache.train.data import MEMORY, check_pairs, selected, selection_split
from spamo_cache.train.distributed import make_accelerator, on_main_process
from spamo_cache.train.features import Features, MixedFeatures, about, encoders_of, unlike
from spamo_cache.train.loop import SAVE_SECONDS, Progress, Trainer
from spamo_cache.train.monitoring import check_curves

_WORDS = {"name", "question", "log", "sweep"}
"""Keys of a pipeline that change no weight and no score."""
_PACE = {"stride", "phase", "tail"}
"""What of a spec says how densely rows follow each other, which corpora may differ in."""


def train(
    pipeline: Pipeline,
    *,
    base: Path,
    manifest: Manifest,
    stores: Mapping[str, Features],
    out: Path,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
    device: str = "auto",
    memory: int = MEMORY,
    save_seconds: float = SAVE_SECONDS,
) -> RunSummary:
    """Train one pipeline into ``out``; a finished run of an equal one is reused.

    The align phase holds only the LLM's embedding table. After an interruption, the same call
    resumes and reaches the weights of an uninterrupted run: bit for bit on a CPU with an equal
    number of threads. Under torchrun or ``accelerate launch`` several processes share the work
    and the folder.

    Args:
        base: folder of the pipeline's file, which a relative ``llm.weights`` refers to.
        stores: stream -> features, or frames where the pipeline tunes its encoders.
        notice: called with what the training sentences lose, before anything is trained, and with
            what is done where memory is short.
        memory: bytes of features of one split to keep in memory.
        save_seconds: least time between two states to resume from.

    Raises:
        UsageError: ``out`` holds something else; the manifest has no dev split; the pipeline is a
            sweep, starts from what is no finished run, or tunes encoders and is given features.
        ConfigError: the LLM has no such layers to tune; pairs are asked for that no clip has.
        DamagedError: a file of the run, or of the one that it starts from, is not what it was.
        StoreError: a stream is missing, or clips have not been extracted.
        WeightsError: the LLM cannot be found.
        MissingLibraryError: what draws the curves is not installed.
    """
    started = time.monotonic()
    if pipeline.sweep:
        raise UsageError(
            f"sweeps over {', '.join(pipeline.sweep)}: several experiments",
            where=pipeline.name,
            remedy="train_sweep of spamo_cache.workflow.experiments.sweep trains each of them",
        )
    if (pipeline.encoders is not None) != bool(encoders_of(stores, pipeline.streams)):
        raise UsageError(
            "encoders are tuned from frames, and only then",
            where=pipeline.name,
            remedy="give frames of every stream with `encoders`, features without",
        )
    check_curves(pipeline)
    folder = RunFolder(out)
    llm = locate(pipeline.llm.weights, base)
    check_llm(llm, pipeline.llm)
    manifest = selected(pipeline, manifest)
    for split in ("train", selection_split(pipeline, manifest)):
        check_pairs(pipeline, manifest, split)
    check_prompts(pipeline, manifest)
    check_targets(llm, pipeline.llm)
    record = describe(pipeline, base, manifest, stores, digest(llm))
    weights = _start(pipeline, record, stores)
    accelerator = make_accelerator(pipeline, device)
    with ExitStack() as held:

        def begin() -> tuple[bool, RunSummary | None]:
            held.enter_context(folder.alone())
            return _begin(folder, pipeline, record, manifest)

        unfinished, known = on_main_process(accelerator, begin)
        if known is not None:
            return replace(known, path=out, reused=True, seconds=0.0)
        trainer = Trainer(
            pipeline,
            accelerator,
            folder,
            llm=llm,
            manifest=manifest,
            stores=stores,
            weights=weights,
            memory=memory,
            save_seconds=save_seconds,
            progress=progress,
            notice=notice,
        )
        if notice is not None and accelerator.is_main_process:
            for words in (*_lost(pipeline, trainer), *_shared(pipeline, manifest)):
                notice(words)
        with cpu_threads(pipeline.threads):
            trainer.start(resume=unfinished)
            state = trainer.run()
        summary = RunSummary(
            path=out,
            reused=False,
            best_bleu=state.best_bleu,
            best_step=state.best_step,
            recall=state.recall,
            seconds=time.monotonic() - started,
            trained=sum(p.numel() for p in trainer.translator.parameters() if p.requires_grad),
            failed={data.split: dict(data.failed) for data in (trainer.data, trainer.dev)},
            steps=trainer.timer.steps,
            step_seconds=trainer.timer.step_seconds,
            waiting=trainer.timer.waiting_share,
            peak_bytes=trainer.timer.peak_bytes,
            checkpointing=trainer.checkpointing,
            adapter=sum(p.numel() for p in trainer.translator.adapter.parameters()),
        )
        if accelerator.is_main_process:
            folder.finish(summary)
            folder.state.unlink(missing_ok=True)
        return summary


def _lost(pipeline: Pipeline, trainer: Trainer) -> Iterator[str]:
    """What the LLM's tokenizer loses of the training sentences, however long it is trained."""
    tokens, texts = trainer.translator.tokens, trainer.data.texts
    counts = coverage(tokens, texts, pipeline.decode.max_tokens)
    if (words := unknown_words(counts, "train")) is not None:
        yield f"{words}: choose an LLM that knows the script"
    if (words := cut_words(counts, "train")) is not None and not pipeline.protocol.whole_targets:
        yield f"{words}: raise decode.max_tokens"


def _shared(pipeline: Pipeline, manifest: Manifest) -> Iterator[str]:
    """What the other corpora hold of that which weights are selected and scored on."""
    held_out, training = list[Clip](), defaultdict[str, list[Clip]](list)
    for clip in manifest.clips() if pipeline.others else ():
        corpus = corpus_of(clip.id, pipeline.corpus, pipeline.others)
        # Corpora lie in different folders: a name is what one video has in both.
        clip = replace(clip, source=PurePosixPath(clip.source).stem)  # noqa: PLW2901
        if corpus != pipeline.corpus:
            training[corpus].append(clip)
        elif clip.split != "train":
            held_out.append(clip)
    for corpus, clips in training.items():
        scored = f"of {len(held_out):,} clips that {pipeline.corpus} is selected and scored on"
        if count := sum(same_sentences(clips, [clip.text for clip in held_out])):
            yield f"{count:,} {scored} say training sentences of {corpus}"
        if count := sum(same_videos(clips, held_out)):
            yield (
                f"{count:,} {scored} are called like training videos of {corpus}: if they are the "
                f"same, take them out of the split 'train' of {corpus}"
            )


def _start(
    pipeline: Pipeline, record: RunRecord, stores: Mapping[str, Features]
) -> dict[str, Tensor] | None:
    """The weights to begin with: those of the best step of another run, on whatever corpus.

    Raises:
        UsageError: its LLM, streams, adapter or LoRA are not this one's.
    """
    if pipeline.init_from is None:
        return None
    folder = RunFolder(Path(pipeline.init_from))
    weights, known, before = folder.weights(), folder.read_about(), folder.pipeline()
    if known.llm != record.llm:
        raise UsageError("was trained with another LLM", where=folder.path)
    ours, theirs = (_shape(one, before) for one in (pipeline, before))
    for key, value in theirs.items():
        if ours[key] != value:
            raise UsageError(
                f"was trained with {key} {_words(value)}, not {_words(ours[key])}: its weights "
                "do not fit",
                where=folder.path,
                remedy=f"set {key} as it was there, or begin without init_from",
            )
    for name in pipeline.streams:
        there = known.stores.get(name)
        odd = unlike(there, about(stores[name]), free=_PACE)
        if known.widths[name] != record.widths[name]:
            odd = ["width"]
        if odd:
            raise UsageError(
                f"was trained on other features: stream {name!r} differs in {', '.join(odd)}",
                where=folder.path,
                remedy="extract this corpus by the spec and the weights of that run",
            )
    return read_tensors(weights)[0]


def _shape(pipeline: Pipeline, before: Pipeline) -> dict[str, Any]:
    """What decides on the names and shapes of the weights that a run ``before`` has."""
    adapter, tuning = pipeline.adapter, pipeline.llm.tuning
    keys: dict[str, Any] = {
        "streams": pipeline.streams,
        "adapter.width": adapter.width,
        "adapter.tcn": adapter.tcn,
        "adapter.fusion": adapter.fusion,
    }
    if before.translate.steps:
        keys |= {"llm.tuning.mode": tuning.mode}
        if tuning.mode == "lora":
            keys |= {"llm.tuning.r": tuning.r, "llm.tuning.targets": tuning.targets}
    return keys


def _words(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _begin(
    folder: RunFolder, pipeline: Pipeline, record: RunRecord, manifest: Manifest
) -> tuple[bool, RunSummary | None]:
    """Whether there is a state to go on from, and the summary of a run that is finished."""
    unfinished = folder.begin(pipeline, record, manifest)
    if unfinished and folder.imported:
        folder.done.unlink(missing_ok=True)
    known = folder.summary()
    if known is not None:
        folder.state.unlink(missing_ok=True)
    return unfinished, known


def describe(
    pipeline: Pipeline, base: Path, manifest: Manifest, stores: Mapping[str, Features], llm: str
) -> RunRecord:
    """What ``run.json`` says: the experiment's identity, and where its parts lie.

    Args:
        llm: digest of the LLM's folder.

    Raises:
        StoreError: a stream is missing.
    """
    if missing := [name for name in pipeline.streams if name not in stores]:
        raise StoreError(
            f"no features of stream {missing[0]!r}",
            where=f"streams of {pipeline.name}",
            remedy="extract it, or leave it out of the pipeline's streams",
        )
    texts = {
        clip.id: [clip.split, normalise(clip.text, pipeline.text)] for clip in manifest.clips()
    }
    parts = {
        "pipeline": settings(pipeline),
        "stores": {name: stores[name].fingerprint for name in pipeline.streams},
        "sentences": identity(texts),
        "llm": llm,
    }
    corpora = _corpora(pipeline, manifest, stores)
    if corpora:
        parts["corpora"] = {name: one.fingerprints for name, one in corpora.items()}
    begun = None
    if pipeline.init_from is not None:
        folder = RunFolder(Path(pipeline.init_from))
        parts["init_from"], before = folder.weights_sha256(), folder.pipeline()
        trained_on = tuple(before.corpora) or (before.corpus,)
        begun = InitialWeights(path=str(folder.path), name=before.name, corpora=trained_on)
    places = {name: stores[name].path for name in pipeline.streams}
    return RunRecord(
        identity=identity(parts),
        parts=parts,
        base=str(base.resolve()),
        widths={name: stores[name].width for name in pipeline.streams},
        places={name: None if path is None else str(path) for name, path in places.items()},
        stores={name: known for name in pipeline.streams if (known := about(stores[name]))},
        origins={
            name: origin
            for name, path in places.items()
            if path is not None and (origin := origin_of(path))
        },
        corpora=corpora,
        init_from=begun,
        versions={"spamo-cache": spamo_cache.__version__, "torch": torch.__version__},
    )


def _corpora(
    pipeline: Pipeline, manifest: Manifest, stores: Mapping[str, Features]
) -> dict[str, TrainedCorpus]:
    """What a run on several corpora takes from each."""
    if not pipeline.others:
        return {}
    training = manifest.select(["train"]).table["id"].to_pylist()
    clips = Counter(corpus_of(clip, pipeline.corpus, pipeline.others) for clip in training)
    shares = pipeline.shares({name: clips[name] for name in pipeline.corpora})
    found = {}
    for name, share in shares.items():
        own = {stream: _of_corpus(stores[stream], name) for stream in pipeline.streams}
        found[name] = TrainedCorpus(
            clips=clips[name],
            share=share,
            fingerprints={stream: one.fingerprint for stream, one in own.items()},
            places={stream: str(one.path) for stream, one in own.items() if one.path},
        )
    return found


def _of_corpus(features: Features, corpus: str) -> Features:
    if not isinstance(features, MixedFeatures):
        raise StoreError("features of one corpus alone", where=f"corpus {corpus}")
    return features.others.get(corpus, features.own)


def settings(pipeline: Pipeline) -> dict[str, Any]:
    """What of a pipeline counts for a run's identity; of ``start`` it is the weights."""
    # Runs on one corpus, in its own splits, are what they were before there was another way.
    unused = set() if pipeline.corpora else {"corpora", "corpora_temperature"}
    unused |= {"resplit"} if pipeline.resplit is None else set()
    plain = pipeline.model_dump(mode="json", exclude=_WORDS | {"init_from"} | unused)
    # It changes no weight. The value is that of the runs made when it was a switch alone.
    plain["translate"]["checkpointing"] = False
    return plain
