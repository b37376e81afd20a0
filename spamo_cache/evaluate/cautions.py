"""Where a score would mislead, in a sentence with numbers; nothing here changes a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.evaluate import bleurt, overlaps
from spamo_cache.evaluate.answers import Answers
from spamo_cache.evaluate.conventions import Convention
from spamo_cache.evaluate.origin import Origin
from spamo_cache.evaluate.published import published
from spamo_cache.metrics.words import unspaced, words
from spamo_cache.model.text import gist
from spamo_cache.model.tokens import Coverage, cut_words, unknown_words
from spamo_cache.train.data import DEV_SPLITS, Examples

_MANY = 0.1
"""Share of the scored clips from which on sentences seen in training are grave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """One reason to read a number with care.

    Attributes:
        kind: a fixed word for scripts.
        words: what it is, with numbers.
        clips: clips concerned; None where it concerns the split as a whole.
        grave: the score cannot be compared with one that was made without it.
    """

    kind: str
    words: str
    clips: int | None = None
    grave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One evaluation, as far as it can be judged.

    Attributes:
        data: the split as it was decoded.
        answers: what is scored.
        conventions: what BLEU-4 comes to under each of them.
        judged: BLEURT is among the metrics.
        coverage: split -> what the LLM's tokenizer loses of its sentences.
        origin: what the weights were made from.
    """

    pipeline: Pipeline
    manifest: Manifest
    data: Examples
    answers: Answers
    conventions: Sequence[Convention]
    judged: bool
    coverage: Mapping[str, Coverage]
    origin: Origin

    @property
    def split(self) -> str:
        return self.data.split


def cautions(evidence: Evidence) -> list[Caution]:
    """All that holds for one evaluation, the grave ones first."""
    found = [caution for check in _CHECKS for caution in check(evidence)]
    return sorted(found, key=lambda caution: not caution.grave)


def _weights(case: Evidence) -> Iterator[Caution]:
    start, origin = case.pipeline.init_from, case.origin
    if start is not None:
        own = case.pipeline.align.steps or case.pipeline.translate.steps
        yield Caution(
            kind="start",
            words=f"Training began with the weights of {start}."
            if own
            else f"Nothing was trained: the weights are those of {start}.",
        )
    if origin.lost is not None:
        yield Caution(
            kind="start-unknown",
            words=f"The run at {origin.lost} whose weights were taken is no longer there: what it "
            "was trained and selected on is not known.",
            grave=True,
        )
    elif origin.imported is not None:
        yield Caution(
            kind="imported",
            words=f"The weights come from {origin.imported}: what they were trained and selected "
            "on is not known; the official release selects on test.",
            grave=True,
        )
    elif not origin.trained:
        yield Caution(
            kind="untaught",
            words="Nothing was trained to translate (translate.steps is 0): what is said is the "
            "language model's own.",
            grave=True,
        )


def _selection(case: Evidence) -> Iterator[Caution]:
    on_test = {pipeline.protocol.select_on_test for pipeline in case.origin.trained}
    for leaky in on_test:
        if case.split in (("test",) if leaky else DEV_SPLITS):
            yield Caution(
                kind="selected-on-test" if leaky else "selected-on-dev",
                words=f"Of all weights those with the best BLEU on {case.split} were kept: "
                "its scores are too high.",
                grave=leaky,
            )


def _pairs(case: Evidence) -> Iterator[Caution]:
    if not case.pipeline.llm.in_context_languages:
        return
    leaky, told = case.pipeline.protocol.pairs_from_batch, _told(case)
    many = f"{told} of {len(case.data)} prompts show a reference of {case.split} itself"
    if bare := sum("=" not in text for text in _prompts(case)):
        yield Caution(
            kind="no-pairs",
            words=f"{bare} of {len(case.data)} prompts show no pair: there is no translation of "
            "the sentence that they would show.",
            clips=bare,
        )
    if leaky or told:
        kind = "pairs-from-batch" if leaky else "reference-in-prompt"
        yield Caution(kind=kind, words=f"{many}, which the LLM is to find.", clips=told, grave=True)
    else:
        languages = ", ".join(case.pipeline.llm.in_context_languages)
        yield Caution(
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


def _missing(case: Evidence) -> Iterator[Caution]:
    if not case.data.failed:
        return
    clips, dropped = len(case.data.failed), case.pipeline.protocol.drop_missing
    first, reason = next(iter(case.data.failed.items()))
    done = "are left out of the score" if dropped else "are scored as empty sentences"
    yield Caution(
        kind="dropped" if dropped else "failed",
        words=f"{clips} of {clips + len(case.data)} clips have no features and {done}; "
        f"the first is {first} ({reason}).",
        clips=clips,
        grave=dropped,
    )


def _unknown(case: Evidence) -> Iterator[Caution]:
    for split, found in case.coverage.items():
        if (words := unknown_words(found, split)) is not None:
            yield Caution(
                kind="unknown-tokens",
                words=f"{words}: what they stand for can be neither learnt nor said.",
                clips=found.lossy,
                grave=found.lossy > _MANY * found.sentences,
            )
        if (words := cut_words(found, split)) is not None:
            yield Caution(kind="cut-targets", words=f"{words}.", clips=found.long)


def _sentences(case: Evidence) -> Iterator[Caution]:
    if case.split == "train":
        yield Caution(
            kind="trained-on",
            words="These are the clips that the run was trained on: it may know them by heart.",
            grave=True,
        )
    else:
        yield from _overlap(case, "train", "seen-in-training")
    if case.split == "test":
        for dev in DEV_SPLITS:
            yield from _overlap(case, dev, "dev-test-overlap")


def _overlap(case: Evidence, other: str, kind: str) -> Iterator[Caution]:
    hits = overlaps.seen(case.origin.clips(other), case.answers.references)
    if not any(hits):
        return
    count, share = sum(hits), sum(hits) / len(hits)
    rest, bleu = overlaps.bleu4_of_others(
        case.answers.hypotheses, case.answers.references, hits, tokenize=case.pipeline.text.tokenize
    )
    others = "no other is left" if bleu is None else f"BLEU-4 of the other {rest} is {bleu:.2f}"
    yield Caution(
        kind=kind,
        words=f"{count} of {len(hits)} references ({share:.1%}) are sentences of {other} too; "
        f"{others}.",
        clips=count,
        grave=other == "train" and share > _MANY,
    )


def _videos(case: Evidence) -> Iterator[Caution]:
    shared = overlaps.same_videos(case.origin.clips("train"), case.answers.clips)
    if shared and case.split != "train":
        yield Caution(
            kind="video-in-training",
            words=f"{shared} of {len(case.answers.clips)} clips show footage of train: the same "
            "video at overlapping times.",
            clips=shared,
            grave=True,
        )


def _sampled(case: Evidence) -> Iterator[Caution]:
    if case.pipeline.protocol.sampled_beams:
        yield Caution(
            kind="sampled",
            words=f"Sentences are drawn at random (top-p 0.9, seed {case.pipeline.seed}): another "
            "seed gives other scores, and no interval here knows of it.",
        )


def _tokenizer(case: Evidence) -> Iterator[Caution]:
    own = case.pipeline.text.tokenize
    if own in {"zh", "char"} or not unspaced(case.answers.references):
        return
    values = {found.tokenize: found.bleu4 for found in reversed(case.conventions)}
    yield Caution(
        kind=f"{own}-on-chinese",
        words=f"The tokenizer {own} takes a whole clause for one word: BLEU-4 {values[own]:.2f}, "
        f"where characters (zh) give {values['zh']:.2f}.",
        grave=True,
    )


def _rouge(case: Evidence) -> Iterator[Caution]:
    if not case.pipeline.protocol.english_rouge or case.pipeline.text.language == "English":
        return
    said = [word for text in case.answers.references for word in words(text)]
    broken = sum(not word.isascii() for word in said)
    yield Caution(
        kind="english-rouge",
        words=f"The headline ROUGE knows a-z and 0-9 alone: {broken} of {len(said)} words "
        f"({broken / max(1, len(said)):.1%}) are split or lost.",
        grave=True,
    )


def _sample(case: Evidence) -> Iterator[Caution]:
    known = CORPORA.get(case.pipeline.corpus)
    expected = known.expected.get(case.split) if known else None
    clips = len(case.manifest.clips(case.split))
    if expected is not None and clips != expected:
        yield Caution(
            kind="other-clips",
            words=f"{case.split} has {clips:,} clips here, {expected:,} as published.",
            clips=clips,
        )


def _bleurt(case: Evidence) -> Iterator[Caution]:
    reported = any("bleurt" in one.metrics for one in published(case.pipeline.corpus))
    if reported and not case.judged:
        yield Caution(
            kind="no-bleurt",
            words="Papers on this corpus report BLEURT, which is left out here: "
            f"`hf download {bleurt.WEIGHTS}` fetches its weights (2.3 GB).",
        )


_CHECKS = (
    *(_weights, _selection, _pairs, _missing, _unknown, _sentences),
    *(_videos, _sampled, _tokenizer, _rouge, _sample, _bleurt),
)
