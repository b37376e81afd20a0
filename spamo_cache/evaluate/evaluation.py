"""What a run scores on a split, with everything needed to judge the number."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from spamo_cache import io
from spamo_cache.compat import cpu_threads
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.overlap import same_sentences
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.evaluate import bleurt, prior
from spamo_cache.evaluate.content import ContentList, content_list, content_words
from spamo_cache.evaluate.conventions import Texts, conventions, headline, texts
from spamo_cache.evaluate.features import check_stores
from spamo_cache.evaluate.groups import by_group, check_columns
from spamo_cache.evaluate.published import published
from spamo_cache.evaluate.warnings import (
    Evidence,
    Lineage,
    Predictions,
    lineage,
    score_warnings,
)
from spamo_cache.metrics import (
    BOOTSTRAP,
    Difference,
    Measure,
    difference,
    measures,
    sentence_bleu,
    summarize,
)
from spamo_cache.model.text import normalise, scored
from spamo_cache.model.tokens import Coverage, Tokens, coverage
from spamo_cache.runs.folder import RunFolder, identity
from spamo_cache.runs.load import Run, load_run, open_stores
from spamo_cache.runs.records import (
    LanguagePrior,
    Scorecard,
    ScoredClip,
    Unfinished,
    card_file,
    keep_card,
    lines_file,
    read_card,
    read_lines,
    text_lines,
    texts_folder,
    unfinished_file,
)
from spamo_cache.train.data import Examples, examples
from spamo_cache.train.decoding import Decoded, decode
from spamo_cache.train.features import Features, encoders_of

_LOG = logging.getLogger(__name__)
_VERSION = 6
"""Of what a card holds; cards of other versions are made anew."""


def evaluate(
    run: Path,
    split: str = "test",
    *,
    manifest: Manifest | None = None,
    stores: Mapping[str, Features] | None = None,
    shuffle: bool | None = None,
    changed: Mapping[str, Any] | None = None,
    bootstrap: int = BOOTSTRAP,
    by: Sequence[str] = (),
    device: str = "auto",
    llm: Path | None = None,
    content: Path | None = None,
    progress: Decoded | None = None,
) -> Scorecard:
    """Decode and score a split; an evaluation of the same things is read back, not repeated.

    One that was interrupted goes on after the last batch that it decoded.

    Writes ``evaluation/<name>.json`` and, a line per clip, ``evaluation/<name>.hypotheses.jsonl``:
    id, hypothesis and reference as they are scored, failed, its own bleu, chrf and rouge_l, and
    whether its reference was seen in training. ``evaluation/<name>.texts`` holds both sides under
    each convention as plain text, a line per clip, for sacrebleu's command line.

    Args:
        run: folder of a finished run.
        manifest: None takes the one kept in the run.
        stores: stream -> features; None finds those the run was trained from.
        shuffle: give every clip another's features: how much a run reads from its video. None
            does what the run's pipeline says.
        changed: dotted keys of the cache spec -> the value that ``stores`` were computed with
            instead of the one that the run was trained on.
        bootstrap: resamples behind the intervals.
        by: columns of the manifest, or of ``groups.DERIVED``, to score the groups of.
        llm: folder of the run's LLM, where that has moved.
        content: list of content words; None is the corpus's own.

    Raises:
        ConfigError: the list of content words cannot be read.
        UsageError: no finished run there, unknown split or column.
        DamagedError: a file of the run is not what it was.
        StoreError: a store differs from the one trained from in more than ``changed``, or lacks
            clips of the split.
    """
    folder = RunFolder(run)
    pipeline = folder.pipeline()
    folder.weights()  # a finished run, or an error that says so
    stores = stores or open_stores(folder, split=split)
    check_stores(folder, stores, changed)
    task = _Task(
        folder=folder,
        pipeline=pipeline,
        manifest=manifest or folder.sentences(),
        stores={name: stores[name] for name in pipeline.streams},
        split=split,
        shuffled=pipeline.shuffle_features if shuffle is None else shuffle,
        changed=dict(changed or {}),
        bootstrap=bootstrap,
        judge=bleurt.find(),
        content=content_list(pipeline.corpus, content),
    )
    # Before the language model is loaded: that may take minutes.
    check_columns(task.manifest, by)
    card = task.known() or _decoded(task, device=device, llm=llm, progress=progress)
    io.discard(unfinished_file(run, task.name))
    if not by:
        return card
    trained = list(lineage(folder).clips("train"))
    return by_group(run, card, by, manifest=task.manifest, trained=trained, bootstrap=bootstrap)


def _decoded(task: _Task, *, device: str, llm: Path | None, progress: Decoded | None) -> Scorecard:
    """Decode and score what nobody has yet; the card as the run keeps it."""
    run, pipeline = task.folder.path, task.pipeline
    io.check_output(card_file(run, task.name))
    encoders = encoders_of(task.stores, pipeline.streams)
    loaded = load_run(run, device=device, encoders=encoders, llm=llm)
    evidence = task.decoded(loaded, progress)
    predictions = evidence.predictions
    measured = task.measured(predictions, loaded.translator.device)
    card = task.judged(evidence, measured)
    card = replace(card, prior=task.prior(loaded, predictions))
    sides = texts(predictions.hypotheses, predictions.references, pipeline.text)
    card = replace(card, texts_sha256=_keep_texts(run, card.name, sides))
    return keep_card(run, card, _lines(evidence, measured))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One evaluation that is asked for."""

    folder: RunFolder
    pipeline: Pipeline
    manifest: Manifest
    stores: Mapping[str, Features]
    split: str
    shuffled: bool
    changed: Mapping[str, Any]
    bootstrap: int
    judge: Path | None
    """Where BLEURT lies."""
    content: ContentList

    @property
    def name(self) -> str:
        floor = self.shuffled != self.pipeline.shuffle_features
        return self.split + ("-shuffled" if floor else "") + _label(self.changed)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {name: store.fingerprint for name, store in self.stores.items()}

    @cached_property
    def identity(self) -> str:
        protocol = self.pipeline.protocol.name
        sentences = {clip.id: [clip.split, clip.text] for clip in self.manifest.clips()}
        return identity(
            {
                "version": _VERSION,
                "run": self.folder.read_about().identity,
                "weights": self.folder.weights_sha256(),
                "sentences": [self.split, sentences],
                "settings": [self.shuffled, self.bootstrap, protocol, dict(self.changed)],
                "stores": self.fingerprints,
                "bleurt": None if self.judge is None else self.judge.name,
                "content": [self.content.source, self.content.words],
            }
        )

    def known(self) -> Scorecard | None:
        """The card of an earlier evaluation of the same things, its lines still beside it.

        What is damaged, or of another version, is as good as none.
        """
        run, folder = self.folder.path, texts_folder(self.folder.path, self.name)
        if not (card_file(run, self.name).exists() and lines_file(run, self.name).exists()):
            return None
        if not folder.exists():
            return None
        try:
            read_lines(run, self.name)
            card = read_card(card_file(run, self.name))
        except SpamoError as error:
            _LOG.warning("%s %s; evaluated again", error.where, error.what)
            return None
        if card.texts_sha256 != _sha256_of_texts(folder):
            _LOG.warning("%s is not what was written; evaluated again", folder)
            return None
        return card if card.identity == self.identity else None

    def unfinished(self, clips: Sequence[str], device: str) -> Unfinished:
        """What an earlier call has decoded of the same clips, on the same kind of device."""
        depends = [self.identity, torch.__version__, device.partition(":")[0], list(clips)]
        return Unfinished(self.folder.path, self.name, identity({"decoded": depends}))

    def decoded(self, loaded: Run, progress: Decoded | None) -> Evidence:
        """Translate the split."""
        pipeline, translator = self.pipeline, loaded.translator
        data = examples(
            pipeline,
            self.manifest,
            self.stores,
            self.split,
            translator.tokens,
            shuffle=self.shuffled,
        )
        unfinished = self.unfinished(data.ids, loaded.device)
        with cpu_threads(pipeline.threads):
            decoded = decode(
                translator, data, pipeline.decode, progress=progress, unfinished=unfinished
            )
        made = predictions(pipeline, self.manifest.clips(self.split), data, decoded)
        made_by = lineage(self.folder)
        return Evidence(
            pipeline=pipeline,
            manifest=self.manifest,
            data=data,
            predictions=made,
            conventions=conventions(made.hypotheses, made.references, pipeline.text),
            judged=self.judge is not None,
            coverage=self._coverage(translator.tokens, data, made_by),
            lineage=made_by,
        )

    def _coverage(self, tokens: Tokens, data: Examples, made_by: Lineage) -> dict[str, Coverage]:
        """Of the sentences learnt and of those to be said."""
        convention = self.pipeline.text
        learnt = [normalise(clip.text, convention) for clip in made_by.clips("train")]
        both = {"train": learnt, self.split: data.texts}
        limit = self.pipeline.decode.max_tokens
        return {split: coverage(tokens, texts, limit) for split, texts in both.items()}

    def prior(self, loaded: Run, made: Predictions) -> LanguagePrior | None:
        """What the run says of the same clips without seeing them."""
        if self.changed or self.shuffled != self.pipeline.shuffle_features:
            return None
        own, text = self.folder.sentences(), self.pipeline.text
        blind = prior.mean_features(self.folder.path, self.pipeline, own, self.stores)
        if blind is None:
            return None
        with cpu_threads(self.pipeline.threads):
            said = prior.translated(
                loaded.translator, self.pipeline, self.manifest, blind, self.split
            )
        return prior.scores(
            [scored(said.get(clip.id, ""), text) for clip in made.clips],
            made.references,
            tokenize=text.tokenize,
            bootstrap=self.bootstrap,
        )

    def measured(self, made: Predictions, device: torch.device) -> dict[str, Measure]:
        """Every metric of the predictions."""
        sides = made.hypotheses, made.references
        metrics = measures(*sides, tokenize=self.pipeline.text.tokenize)
        if self.judge is not None:
            metrics["bleurt"] = bleurt.bleurt(self.judge, *sides, device)
        return metrics

    def judged(self, evidence: Evidence, measured: Mapping[str, Measure]) -> Scorecard:
        """The card of what was measured."""
        pipeline, scores = self.pipeline, summarize(measured, bootstrap=self.bootstrap)
        return Scorecard(
            run=pipeline.name,
            name=self.name,
            split=self.split,
            protocol=pipeline.protocol.name,
            n=scores.n,
            metrics=scores.values,
            intervals=scores.intervals,
            signatures=scores.signatures,
            bootstrap=scores.bootstrap,
            headline=headline(
                pipeline.text,
                "rouge_l_official" if pipeline.protocol.english_rouge else "rouge_l",
            ),
            conventions=evidence.conventions,
            warnings=score_warnings(evidence),
            published=published(pipeline.corpus) if self.split == "test" else [],
            failed=evidence.data.failed,
            shuffled=self.shuffled,
            changed=self.changed,
            stores=self.fingerprints,
            identity=self.identity,
            resplit=self.manifest.resplit,
            content=content_words(
                evidence.predictions.hypotheses,
                evidence.predictions.references,
                self.content,
                bootstrap=self.bootstrap,
            ),
        )


def _label(changed: Mapping[str, Any]) -> str:
    """Changes of the spec as part of a file's name."""
    words = [f"{key.removeprefix('streams.')}={value}" for key, value in changed.items()]
    return "@" + re.sub(r"[^\w.=,-]+", "-", ",".join(words)) if words else ""


def predictions(
    pipeline: Pipeline, clips: Sequence[Clip], data: Examples, decoded: Sequence[str]
) -> Predictions:
    """Every clip of the split, unless the protocol drops those without features.

    Args:
        clips: of the split.
        data: those with features, which ``decoded`` are the translations of.
    """
    translated = dict(zip(data.ids, decoded, strict=True))
    kept = [clip for clip in clips if clip.id in translated or not pipeline.protocol.drop_missing]
    return Predictions(
        clips=kept,
        hypotheses=[scored(translated.get(clip.id, ""), pipeline.text) for clip in kept],
        references=[normalise(clip.text, pipeline.text) for clip in kept],
    )


def _lines(evidence: Evidence, measured: Mapping[str, Measure]) -> Iterator[ScoredClip]:
    """A line per clip: its texts as they are scored, why it failed if it did, its own scores."""
    made, failed = evidence.predictions, evidence.data.failed
    bleurts = measured["bleurt"].per_clip if "bleurt" in measured else [None] * len(made.clips)
    columns = zip(
        made.clips,
        made.hypotheses,
        made.references,
        sentence_bleu(measured["bleu4"]),
        measured["chrf"].per_clip,
        measured["rouge_l"].per_clip,
        bleurts,
        same_sentences(evidence.lineage.clips("train"), made.references),
        strict=True,
    )
    for clip, hypothesis, reference, bleu, chrf, rouge_l, judged, known in columns:
        yield ScoredClip(
            id=clip.id,
            hypothesis=hypothesis,
            reference=reference,
            failed=failed.get(clip.id),
            bleu=bleu,
            chrf=chrf,
            rouge_l=rouge_l,
            bleurt=judged,
            seen=known,
        )


def _keep_texts(run: Path, name: str, sides: Iterable[Texts]) -> str:
    """Write both sides under each convention as plain text, for sacrebleu's command line.

    Returns:
        One sha256 of all the files.
    """
    folder = texts_folder(run, name)
    for one in sides:
        for side in ("hypotheses", "references"):
            io.write_atomic(folder / f"{one.stem}.{side}.txt", text_lines(getattr(one, side)))
    return _sha256_of_texts(folder)


def _sha256_of_texts(folder: Path) -> str:
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.txt")
    }
    return identity(digests)


def compare(run: Path, other: Path, name: str = "test") -> dict[str, Difference]:
    """Metric -> how two evaluated runs differ.

    Args:
        name: of the evaluation, as ``evaluation/<name>.json`` has it.

    Raises:
        UsageError: one of them was not evaluated so, or not on the same references.
    """
    (ours, references), (theirs, expected) = (_texts(path, name) for path in (run, other))
    if references != expected:
        raise UsageError(
            f"scores of {name} are of {len(references)} references here, of {len(expected)} "
            "there, and they are not the same",
            where=other,
            remedy="compare runs of one corpus, text convention and split that drop no clips",
        )
    tokenize = RunFolder(run).pipeline().text.tokenize
    sides = ([side[clip] for clip in references] for side in (ours, theirs))
    one, two = (measures(side, list(references.values()), tokenize=tokenize) for side in sides)
    return {metric: difference(measure, two[metric]) for metric, measure in one.items()}


def _texts(run: Path, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The hypothesis of each clip as it was scored, and its reference."""
    lines = read_lines(run, name)
    hypotheses = {line.id: line.hypothesis for line in lines}
    return hypotheses, {line.id: line.reference for line in lines}
