"""Where a score would mislead, in a sentence with numbers; nothing here changes a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from spamo_cache import human
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import DEV_SPLITS, Clip, Manifest
from spamo_cache.datasets.mixture import named_apart
from spamo_cache.datasets.overlap import gist, same_sentences, same_signers, same_videos
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.evaluate import bleurt
from spamo_cache.evaluate.conventions import tokenizer_warnings
from spamo_cache.evaluate.published import published
from spamo_cache.metrics import bleu4, words
from spamo_cache.model.tokens import Coverage, cut_words, unknown_words
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.records import Convention, ScoreWarning
from spamo_cache.train.data import Examples

_MANY = 0.1
"""Share of the scored clips from which on sentences seen in training are a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The clips that are scored; lists of equal order.

    Attributes:
        clips: in the order of the manifest.
        hypotheses: translations as they are scored (``text.hypotheses``); empty for a clip
            without features.
        references: in the run's text convention.
    """

    clips: Sequence[Clip]
    hypotheses: Sequence[str]
    references: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One evaluation, as far as it can be judged.

    Attributes:
        data: the split as it was decoded.
        predictions: what is scored.
        conventions: what BLEU-4 comes to under each of them.
        judged: BLEURT is among the metrics.
        coverage: split -> what the LLM's tokenizer loses of its sentences.
        lineage: the runs that the weights were made by.
    """

    pipeline: Pipeline
    manifest: Manifest
    data: Examples
    predictions: Predictions
    conventions: Sequence[Convention]
    judged: bool
    coverage: Mapping[str, Coverage]
    lineage: Lineage

    @property
    def split(self) -> str:
        return self.data.split


def score_warnings(evidence: Evidence) -> list[ScoreWarning]:
    """All that hold for one evaluation, the severe ones first."""
    found = [warning for check in _CHECKS for warning in check(evidence)]
    return sorted(found, key=lambda warning: warning.severity == "note")


def _weights(case: Evidence) -> Iterator[ScoreWarning]:
    start, lineage = case.pipeline.init_from, case.lineage
    if start is not None:
        own = case.pipeline.align.steps or case.pipeline.translate.steps
        before = lineage.runs[0].read_about().init_from
        if before is not None and before.corpora != (case.pipeline.corpus,):
            start += f", trained on {' and '.join(before.corpora)}"
        yield ScoreWarning(
            kind="start",
            words=f"Training began with the weights of {start}."
            if own
            else f"Nothing was trained: the weights are those of {start}.",
        )
    if lineage.lost is not None:
        yield ScoreWarning(
            kind="start-unknown",
            words=f"The run at {lineage.lost} whose weights were taken is no longer there: what it "
            "was trained and selected on is not known.",
            severity="warning",
        )
    elif lineage.imported is not None:
        yield ScoreWarning(
            kind="imported",
            words=f"The weights come from {lineage.imported}: what they were trained and selected "
            "on is not known; the official release selects on test.",
            severity="warning",
        )
    elif not lineage.trained:
        yield ScoreWarning(
            kind="untaught",
            words="Nothing was trained to translate (translate.steps is 0): what is said is the "
            "language model's own.",
            severity="warning",
        )


def _selection(case: Evidence) -> Iterator[ScoreWarning]:
    on_test = {pipeline.protocol.select_on_test for pipeline in case.lineage.trained}
    for leaky in on_test:
        if case.split in (("test",) if leaky else DEV_SPLITS):
            yield ScoreWarning(
                kind="selected-on-test" if leaky else "selected-on-dev",
                words=f"Of all weights those with the best BLEU on {case.split} were kept: "
                "its scores are too high.",
                severity=_severity(leaky),
            )


def _pairs(case: Evidence) -> Iterator[ScoreWarning]:
    if not case.pipeline.llm.in_context_languages:
        return
    leaky, told = case.pipeline.protocol.pairs_from_batch, _told(case)
    many = f"{told} of {len(case.data)} prompts show a reference of {case.split} itself"
    if bare := sum("=" not in text for text in _prompts(case)):
        yield ScoreWarning(
            kind="no-pairs",
            words=f"{bare} of {len(case.data)} prompts show no pair: there is no translation of "
            "the sentence that they would show.",
            clips=bare,
        )
    if leaky or told:
        kind = "pairs-from-batch" if leaky else "reference-in-prompt"
        yield ScoreWarning(
            kind=kind, words=f"{many}, which the LLM is to find.", clips=told, severity="warning"
        )
    else:
        languages = ", ".join(case.pipeline.llm.in_context_languages)
        yield ScoreWarning(
            kind="pairs",
            words=f"Prompts show a training sentence each, with its translation ({languages}); "
            f"{many}.",
            clips=len(case.data),
        )


def _told(case: Evidence) -> int:
    """Prompts with a reference of the split."""
    hidden = set(map(gist, case.data.texts))
    # A pair reads "source=target", and those of a prompt are of one sentence.
    return sum("=" in text and gist(text.rpartition("=")[2]) in hidden for text in _prompts(case))


def _prompts(case: Evidence) -> list[str]:
    """The very prompts that were decoded."""
    batches = case.data.sorted_batches(case.pipeline.decode.batch)
    spoken = ([case.data.sentences[number] for number in batch] for batch in batches)
    return [prompt for batch in spoken for prompt in case.data.prompts.texts(batch)]


def _missing(case: Evidence) -> Iterator[ScoreWarning]:
    if not case.data.failed:
        return
    clips, dropped = len(case.data.failed), case.pipeline.protocol.drop_missing
    first, reason = next(iter(case.data.failed.items()))
    done = "are left out of the score" if dropped else "are scored as empty sentences"
    yield ScoreWarning(
        kind="dropped" if dropped else "failed",
        words=f"{clips} of {clips + len(case.data)} clips have no features and {done}; "
        f"the first is {first} ({reason}).",
        clips=clips,
        severity=_severity(dropped),
    )


def _unknown(case: Evidence) -> Iterator[ScoreWarning]:
    for split, found in case.coverage.items():
        if (words := unknown_words(found, split)) is not None:
            yield ScoreWarning(
                kind="unknown-tokens",
                words=f"{words}: what they stand for can be neither learnt nor said.",
                clips=found.lossy,
                severity=_severity(found.lossy > _MANY * found.sentences),
            )
        if (words := cut_words(found, split)) is not None:
            yield ScoreWarning(kind="cut-targets", words=f"{words}.", clips=found.long)


def _sentences(case: Evidence) -> Iterator[ScoreWarning]:
    if case.split == "train":
        yield ScoreWarning(
            kind="trained-on",
            words="These are the clips that the run was trained on: it may know them by heart.",
            severity="warning",
        )
    else:
        yield from _shared_sentences(case, "train", "seen-in-training")
    if case.split == "test":
        for dev in DEV_SPLITS:
            yield from _shared_sentences(case, dev, "dev-test-overlap")


def _shared_sentences(case: Evidence, other: str, kind: str) -> Iterator[ScoreWarning]:
    hits = same_sentences(case.lineage.clips(other), case.predictions.references)
    count, share = sum(hits), sum(hits) / len(hits)
    if count:
        yield ScoreWarning(
            kind=kind,
            words=f"{count} of {len(hits)} references ({share:.1%}) are sentences of {other} too; "
            f"{_bleu4_of_others(case, hits)}.",
            clips=count,
            severity=_severity(other == "train" and share > _MANY),
        )


def _signers(case: Evidence) -> Iterator[ScoreWarning]:
    if case.split == "train":
        return
    found = same_signers(case.lineage.clips("train"), case.predictions.clips)
    count, gaps = sum(found.known), found.gaps(case.split, "train")
    if count:
        yield ScoreWarning(
            kind="signers-in-training",
            words=f"{found.words(case.split, 'train')}; {_bleu4_of_others(case, found.known)}. "
            "What it comes to with signers that it has never seen is another question.",
            clips=count,
            severity=_severity(count > _MANY * len(found.known)),
        )
    if gaps:
        yield ScoreWarning(
            kind="unknown-signers",
            words=f"Whether {case.split} shares signers with train is not known of all: {gaps}.",
            clips=found.unnamed,
        )


def _bleu4_of_others(case: Evidence, hits: Sequence[bool]) -> str:
    """In words, the number and BLEU-4 of the clips that are no hits."""
    rest = [number for number, hit in enumerate(hits) if not hit]
    if not rest:
        return "no other is left"
    made = case.predictions
    pairs = [[side[number] for number in rest] for side in (made.hypotheses, made.references)]
    bleu = bleu4(*pairs, tokenize=case.pipeline.text.tokenize)
    return f"BLEU-4 of the other {len(rest)} is {bleu:.2f}"


def _videos(case: Evidence) -> Iterator[ScoreWarning]:
    shared = sum(same_videos(case.lineage.clips("train"), case.predictions.clips))
    if shared and case.split != "train":
        yield ScoreWarning(
            kind="video-in-training",
            words=f"{shared} of {len(case.predictions.clips)} clips show footage of train: the "
            "same video at overlapping times.",
            clips=shared,
            severity="warning",
        )


def _sampled(case: Evidence) -> Iterator[ScoreWarning]:
    if case.pipeline.protocol.sampled_beams:
        yield ScoreWarning(
            kind="sampled",
            words=f"Sentences are drawn at random (top-p 0.9, seed {case.pipeline.seed}): another "
            "seed gives other scores, and no interval here knows of it.",
        )


def _tokenizer(case: Evidence) -> Iterator[ScoreWarning]:
    references = case.predictions.references
    yield from tokenizer_warnings(case.pipeline.text.tokenize, references, case.conventions)


def _rouge(case: Evidence) -> Iterator[ScoreWarning]:
    if not case.pipeline.protocol.english_rouge or case.pipeline.text.language == "English":
        return
    said = [word for text in case.predictions.references for word in words(text)]
    broken = sum(not word.isascii() for word in said)
    yield ScoreWarning(
        kind="english-rouge",
        words=f"The headline ROUGE knows a-z and 0-9 alone: {broken} of {len(said)} words "
        f"({broken / max(1, len(said)):.1%}) are split or lost.",
        severity="warning",
    )


def _sample(case: Evidence) -> Iterator[ScoreWarning]:
    known = None if case.manifest.resplit else CORPORA.get(case.pipeline.corpus)
    expected = known.expected.get(case.split) if known else None
    clips = len(case.manifest.clips(case.split))
    if expected is not None and clips != expected:
        yield ScoreWarning(
            kind="other-clips",
            words=f"{case.split} has {human.count(clips, 'clip')} here, {expected:,} as published.",
            clips=clips,
        )


def _resplit(case: Evidence) -> Iterator[ScoreWarning]:
    if case.manifest.resplit:
        compared = case.split == "test" and bool(published(case.pipeline.corpus))
        other = "The splits are not the corpus's own" + f" ({case.manifest.resplit})"
        yield ScoreWarning(
            kind="resplit",
            words=f"{other}: published figures are of other test clips, and no match for these."
            if compared
            else f"{other}.",
            severity=_severity(compared),
        )


def _bleurt(case: Evidence) -> Iterator[ScoreWarning]:
    reported = any("bleurt" in one.metrics for one in published(case.pipeline.corpus))
    if reported and not case.judged:
        yield ScoreWarning(
            kind="no-bleurt",
            words="Papers on this corpus report BLEURT, which is left out here: "
            f"`hf download {bleurt.WEIGHTS}` fetches its weights (2.3 GB).",
        )


_CHECKS = (
    *(_weights, _selection, _pairs, _missing, _unknown, _sentences, _signers),
    *(_videos, _sampled, _tokenizer, _rouge, _sample, _resplit, _bleurt),
)


def _severity(severe: bool) -> Literal["warning", "note"]:
    return "warning" if severe else "note"


# --- whose weights a run holds: of its own training, and of the runs that it began with ---------


@dataclass(frozen=True)
class Lineage:
    """All that the weights of a run were made from, as far as it can still be read.

    Attributes:
        runs: the run, and behind it those that it began with, the nearest first.
        lost: where the run lay that the last of these began with, if it is no longer there.
    """

    runs: Sequence[RunFolder]
    lost: str | None

    @property
    def imported(self) -> str | None:
        """Name of the checkpoint that the weights came from, if they did."""
        return (self.runs[-1].read_about().imported or {}).get("name")

    @cached_property
    def trained(self) -> list[Pipeline]:
        """Those that were trained to translate, and kept their best weights."""
        found = (folder.pipeline() for folder in self.runs)
        return [pipeline for pipeline in found if pipeline.translate.steps]

    def clips(self, split: str) -> Iterator[Clip]:
        """Of a split as each of the runs knew it; some come more than once."""
        for manifest in self._manifests:
            if split in manifest.splits:
                yield from manifest.clips(split)

    @cached_property
    def _manifests(self) -> list[Manifest]:
        own, *before = (folder.sentences() for folder in self.runs)
        return [own, *(one if one.corpus == own.corpus else named_apart(one) for one in before)]


def lineage(folder: RunFolder) -> Lineage:
    """Follow ``start`` back to the first run whose weights are in those of ``folder``."""
    runs = [folder]
    while (start := runs[-1].pipeline().init_from) is not None:
        before = _begun_with(runs[-1], Path(start))
        if before is None:
            return Lineage(runs, start)
        runs.append(before)
    return Lineage(runs, None)


def _begun_with(folder: RunFolder, start: Path) -> RunFolder | None:
    """The run whose weights another began with, if they are still those; moved together or not."""
    expected = folder.read_about().parts["init_from"]
    for before in map(RunFolder, (start, folder.path.parent / start.name)):
        try:
            before.weights()
        except (UsageError, DamagedError):
            continue  # no longer there, or no longer what they were
        if before.weights_sha256() == expected:
            return before
    return None
