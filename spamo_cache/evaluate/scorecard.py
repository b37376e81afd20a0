"""What a run scores on a split, with everything needed to judge the number."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from spamo_cache import io
from spamo_cache.compat import cpu_threads
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import SpamoError
from spamo_cache.evaluate import bleurt, overlaps
from spamo_cache.evaluate.answers import Answers, answers, read_table, table, table_file
from spamo_cache.evaluate.cautions import Caution, Evidence, cautions
from spamo_cache.evaluate.conventions import Convention, Texts, conventions, texts
from spamo_cache.evaluate.origin import Origin, origin
from spamo_cache.evaluate.published import Published, published
from spamo_cache.evaluate.stores import check_stores, open_stores
from spamo_cache.metrics import BOOTSTRAP, Measure, measures, summarize
from spamo_cache.model.text import normalise
from spamo_cache.model.tokens import Coverage, Tokens, coverage
from spamo_cache.runs.folder import RunFolder, identity
from spamo_cache.runs.load import LoadedRun, load_run
from spamo_cache.train.data import Examples, examples
from spamo_cache.train.decoding import Decoded, decode
from spamo_cache.train.features import Features, encoders_of

_LOG = logging.getLogger(__name__)
_VERSION = 4
"""Of what a card holds; cards of other versions are made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """One run on one split; ``<run>/evaluation/<name>.json`` holds the same.

    Attributes:
        run: the pipeline's name.
        name: of the evaluation: ``test``, ``test-shuffled``, ``test@motion.stride=4``.
        split: the split decoded.
        protocol: ``default``, ``official``, or the switches of the protocol that are on.
        n: clips scored, the failed ones among them with an empty hypothesis unless the protocol
            drops them.
        metrics: ``bleu1`` .. ``bleu4``, ``chrf``, ``ter``, ``rouge_l``, ``rouge_l_official``,
            ``rouge_l_coco`` and, where its weights are at hand, ``bleurt``; in points of 100.
        intervals: 95 % bootstrap intervals of the metrics.
        signatures: all settings of each metric.
        bootstrap: ``resamples`` and ``seed`` behind the intervals.
        headline: the convention of ``metrics``: ``tokenize``, ``lower``, ``final_dot``, what is
            done to ``hypotheses``, and which ``rouge`` is the one to quote.
        conventions: BLEU-4 under every convention that papers use, the headline's first.
        warnings: where the scores would mislead, the grave reasons first.
        published: what papers report, on test.
        failed: clips without features -> reason.
        shuffled: every clip was decoded from another clip's features.
        changed: keys of the cache spec -> value at test time, where the run was trained on another.
        stores: stream -> fingerprint.
        identity: sha256 over weights, settings, stores and references: equal means same result.
        table_sha256: of the file of hypotheses beside the card.
        texts_sha256: of all files of its texts, see :func:`keep_texts`.
    """

    run: str
    name: str
    split: str
    protocol: str
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    signatures: Mapping[str, str]
    bootstrap: Mapping[str, int]
    headline: Mapping[str, Any]
    conventions: Sequence[Convention]
    warnings: Sequence[Caution]
    published: Sequence[Published]
    failed: Mapping[str, str]
    shuffled: bool
    changed: Mapping[str, Any]
    stores: Mapping[str, str]
    identity: str
    table_sha256: str = ""
    texts_sha256: str = ""


def read_card(path: Path) -> Scorecard:
    """The scorecard in a file of ``<run>/evaluation``.

    Raises:
        SpamoError: it is missing, or one of another version.
        DamagedError: it is not what was written.
    """
    try:
        return _CARD.validate_python(io.read_json(path))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        raise SpamoError(
            f"is no scorecard: {key}: {fault['msg']}", where=path, remedy="evaluate the run again"
        ) from None


def keep_card(run: Path, card: Scorecard, lines: Iterable[Mapping[str, Any]]) -> Scorecard:
    """Write a scorecard and its :func:`answers.table` into a run; the card as it is kept."""
    path = table_file(run, card.name)
    path.parent.mkdir(exist_ok=True)
    text = _lines(json.dumps(line, ensure_ascii=False) for line in lines)
    io.write_atomic(path, text)
    kept = replace(card, table_sha256=hashlib.sha256(text).hexdigest())
    # The card last: where it stands, its hypotheses stand too.
    io.write_json(path.with_name(f"{card.name}.json"), _CARD.dump_python(kept, mode="json"))
    return kept


def keep_texts(run: Path, name: str, sides: Iterable[Texts]) -> str:
    """Write both sides under each convention as plain text, for sacrebleu's command line.

    Returns:
        One sha256 of all the files.
    """
    folder = texts_folder(run, name)
    folder.mkdir(parents=True, exist_ok=True)
    for one in sides:
        for side in ("hypotheses", "references"):
            io.write_atomic(folder / f"{one.stem}.{side}.txt", _lines(getattr(one, side)))
    return _sha256_of_texts(folder)


def _sha256_of_texts(folder: Path) -> str:
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.txt")
    }
    return identity(digests)


def evaluate(
    run: Path,
    split: str = "test",
    *,
    manifest: Manifest | None = None,
    stores: Mapping[str, Features] | None = None,
    shuffle: bool | None = None,
    changed: Mapping[str, Any] | None = None,
    bootstrap: int = BOOTSTRAP,
    device: str = "auto",
    llm: Path | None = None,
    progress: Decoded | None = None,
) -> Scorecard:
    """Decode and score a split; an evaluation of the same things is read back, not repeated.

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
        llm: folder of the run's LLM, where that has moved.

    Raises:
        UsageError: no finished run there, unknown split.
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
    )
    # Before the language model is loaded: that may take minutes.
    if (known := task.known()) is not None:
        return known
    encoders = encoders_of(task.stores, pipeline.streams)
    loaded = load_run(run, device=device, encoders=encoders, llm=llm)
    evidence = task.decoded(loaded, progress)
    measured = task.measured(evidence.answers, loaded.translator.device)
    result = task.judged(evidence, measured)
    found, failed = evidence.answers, evidence.data.failed
    seen = overlaps.seen(evidence.origin.clips("train"), found.references)
    sides = texts(found.hypotheses, found.references, pipeline.text)
    result = replace(result, texts_sha256=keep_texts(run, result.name, sides))
    return keep_card(run, result, table(found, measured, seen, failed))


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
            }
        )

    @property
    def _card(self) -> Path:
        return self.folder.path / "evaluation" / f"{self.name}.json"

    @property
    def _table(self) -> Path:
        return table_file(self.folder.path, self.name)

    @property
    def _texts(self) -> Path:
        return texts_folder(self.folder.path, self.name)

    def known(self) -> Scorecard | None:
        """The card of an earlier evaluation of the same things, its table still beside it.

        What is damaged, or of another version, is as good as none.
        """
        if not (self._card.exists() and self._table.exists() and self._texts.exists()):
            return None
        try:
            read_table(self.folder.path, self.name)
            card = read_card(self._card)
        except SpamoError as error:
            _LOG.warning("%s %s; evaluated again", error.where, error.what)
            return None
        if card.texts_sha256 != _sha256_of_texts(self._texts):
            _LOG.warning("%s is not what was written; evaluated again", self._texts)
            return None
        return card if card.identity == self.identity else None

    def decoded(self, loaded: LoadedRun, progress: Decoded | None) -> Evidence:
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
        with cpu_threads(pipeline.threads):
            said = decode(translator, data, pipeline.decode, progress=progress)
        found = answers(pipeline, self.manifest.clips(self.split), data, said)
        made_from = origin(self.folder)
        return Evidence(
            pipeline=pipeline,
            manifest=self.manifest,
            data=data,
            answers=found,
            conventions=conventions(found.hypotheses, found.references, pipeline.text),
            judged=self.judge is not None,
            coverage=self._coverage(translator.tokens, data, made_from),
            origin=made_from,
        )

    def _coverage(self, tokens: Tokens, data: Examples, made_from: Origin) -> dict[str, Coverage]:
        """Of the sentences learnt and of those to be said."""
        convention = self.pipeline.text
        learnt = [normalise(clip.text, convention) for clip in made_from.clips("train")]
        both = {"train": learnt, self.split: data.texts}
        limit = self.pipeline.decode.max_tokens
        return {split: coverage(tokens, texts, limit) for split, texts in both.items()}

    def measured(self, found: Answers, device: torch.device) -> dict[str, Measure]:
        """Every metric of the answers."""
        sides = found.hypotheses, found.references
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
            headline=_headline(pipeline),
            conventions=evidence.conventions,
            warnings=cautions(evidence),
            published=published(pipeline.corpus) if self.split == "test" else [],
            failed=evidence.data.failed,
            shuffled=self.shuffled,
            changed=self.changed,
            stores=self.fingerprints,
            identity=self.identity,
        )


def _label(changed: Mapping[str, Any]) -> str:
    """Changes of the spec as part of a file's name."""
    words = [f"{key.removeprefix('streams.')}={value}" for key, value in changed.items()]
    return "@" + re.sub(r"[^\w.=,-]+", "-", ",".join(words)) if words else ""


def texts_folder(run: Path, name: str) -> Path:
    """Where an evaluation keeps its texts: ``<Convention.texts>.{hypotheses,references}.txt``."""
    return run / "evaluation" / f"{name}.texts"


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _headline(pipeline: Pipeline) -> dict[str, Any]:
    own = pipeline.text.model_dump(include={"tokenize", "lower", "final_dot", "hypotheses"})
    return own | {"rouge": "rouge_l_official" if pipeline.protocol.english_rouge else "rouge_l"}


_CARD = TypeAdapter(Scorecard)
