"""What is kept of a run beside its weights: scorecards and translations, by the types of both.

evaluation/<name>.json               a ``Scorecard``
evaluation/<name>.hypotheses.jsonl   a ``ScoredClip`` per line
evaluation/<name>.texts/             both sides under each convention, for sacrebleu
evaluation/<name>.unfinished.jsonl   translations of an evaluation that was interrupted
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from spamo_cache import io
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.runs.documents import read_document, write_document

Dot = bool | Literal["attached"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWarning:
    """One reason to read a score with care.

    Attributes:
        kind: a fixed word for scripts.
        words: what it is, with numbers.
        clips: clips concerned; None where it concerns the split as a whole.
        severity: ``warning`` if it makes the score incomparable with others.
    """

    kind: str
    words: str
    clips: int | None = None
    severity: Literal["warning", "note"] = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """BLEU-4 of one set of hypotheses under one convention.

    Attributes:
        name: the convention in words.
        lower: references in lower case, and hypotheses too where case is ignored.
        final_dot: as in ``TextConfig``; None: both sides without the punctuation at the end.
        tokenize: sacrebleu's tokenizer.
        texts: what the files of its texts are called, see ``texts_folder``.
        bleu4: in points of 100.
        headline: this is the convention of the run's own scores.
    """

    name: str
    lower: bool
    final_dot: Dot
    tokenize: str
    texts: str
    bleu4: float
    headline: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One system on one corpus.

    Attributes:
        system: what the source calls it.
        metrics: in points of 100, by the scorecard's names.
        protocol: what differs from a run without leaks.
        source: where the figures stand.
        certain: looked up; otherwise from a second hand or recalled, to be checked before use.
    """

    system: str
    metrics: Mapping[str, float]
    protocol: str
    source: str
    certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The clips of a split that have one value in a column, and their scores.

    Attributes:
        value: the value; None for the clips that have none.
        n: clips scored.
        metrics: as of the whole split.
        intervals: 95 % bootstrap intervals of the metrics; empty for a single clip.
    """

    value: str | None
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentWords:
    """How many numbers, names and places are right.

    Attributes:
        source: what counts as a content word.
        right: said where they are expected, over all clips.
        said: in the hypotheses.
        expected: in the references.
        metrics: ``precision`` (of those said) and ``recall`` (of those expected), in per cent.
        intervals: 95 % bootstrap intervals of both.
    """

    source: str
    right: int
    said: int
    expected: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePrior:
    """What the same run scores without seeing, every row the mean row of the training features.

    Attributes:
        metrics: some of the scorecard's, in points of 100.
        intervals: 95 % bootstrap intervals of them.
        sentences: different translations.
        commonest: the translation of most clips.
        clips: how many that is.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    sentences: int
    commonest: str
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationScores:
    """Scores of translations beside their references, whoever made them.

    Attributes:
        n: translations scored.
        metrics: ``bleu1`` .. ``bleu4``, ``chrf``, ``ter``, ``rouge_l``, ``rouge_l_official``,
            ``rouge_l_coco`` and, for runs where its weights are at hand, ``bleurt``; in points of
            100.
        intervals: 95 % bootstrap intervals of the metrics.
        signatures: all settings of each metric.
        bootstrap: ``resamples`` and ``seed`` behind the intervals.
        headline: the convention of ``metrics``: ``tokenize``, ``lower``, ``final_dot``, what is
            done to ``hypotheses``, and which ``rouge`` is the one to quote.
        conventions: BLEU-4 under every convention that papers use, the headline's first.
        warnings: where the scores would mislead, the severe reasons first.
        content: numbers, names and places that are right; None where there are none.
    """

    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    signatures: Mapping[str, str]
    bootstrap: Mapping[str, int]
    headline: Mapping[str, Any]
    conventions: Sequence[Convention]
    warnings: Sequence[ScoreWarning]
    content: ContentWords | None = None

    @property
    def rouge(self) -> str:
        """The ROUGE-L to quote: a key of ``metrics``."""
        return str(self.headline["rouge"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScores(TranslationScores):
    """Scores of any system's translations, as ``score`` gives them.

    Attributes:
        corpus: its name; None where none was named.
        split: the references' split.
        published: what papers report of the corpus, on test.
        missing: clips without a hypothesis, which are scored as empty sentences.
    """

    corpus: str | None
    split: str
    published: Sequence[Published]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard(TranslationScores):
    """One run on one split; ``<run>/evaluation/<name>.json`` holds the same.

    Of its clips ``n`` are scored, the failed ones among them with an empty hypothesis unless the
    protocol drops them.

    Attributes:
        run: the pipeline's name.
        name: of the evaluation: ``test``, ``test-shuffled``, ``test@motion.stride=4``.
        split: the split decoded.
        resplit: how the clips were split anew, as in ``fold 2 of 5 by signer, seed 0``; empty for
            the corpus's own splits.
        protocol: ``default``, ``official``, or the switches of the protocol that are on.
        published: what papers report, on test.
        failed: clips without features -> reason.
        shuffled: every clip was decoded from another clip's features.
        changed: keys of the cache spec -> value at test time, where the run was trained on another.
        stores: stream -> fingerprint.
        prior: scores of the language alone; None of evaluations that are not plain, and where the
            stores hold no training clip or the run reads frames.
        identity: sha256 over weights, settings, stores and references: equal means same result.
        groups: column -> the groups that its values make, the largest first; of those columns that
            were asked for. Each holds every scored clip once.
        table_sha256: of the file of hypotheses beside the card.
        texts_sha256: of all files of its texts.
    """

    run: str
    name: str
    split: str
    protocol: str
    published: Sequence[Published]
    failed: Mapping[str, str]
    shuffled: bool
    changed: Mapping[str, Any]
    stores: Mapping[str, str]
    identity: str
    resplit: str = ""
    groups: Mapping[str, Sequence[Group]] = field(default_factory=dict)
    prior: LanguagePrior | None = None
    table_sha256: str = ""
    texts_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredClip:
    """One clip's translation and reference as they are scored, and its own scores.

    Attributes:
        failed: why there were no features; the hypothesis is empty then.
        bleu, chrf, rouge_l: of this sentence alone, in points of 100.
        bleurt: the same; None where it was not computed.
        seen: the reference is a training sentence too.
    """

    id: str
    hypothesis: str
    reference: str
    failed: str | None = None
    bleu: float = 0.0
    chrf: float = 0.0
    rouge_l: float = 0.0
    bleurt: float | None = None
    seen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scorecard):
    """A scorecard and the lines behind it."""

    lines: Sequence[ScoredClip]


_CARD = TypeAdapter(Scorecard)
_LINE = TypeAdapter(ScoredClip)


def card_file(run: Path, name: str) -> Path:
    """Where an evaluation of a run keeps its card."""
    return run / "evaluation" / f"{name}.json"


def lines_file(run: Path, name: str) -> Path:
    """Where an evaluation of a run keeps its translations."""
    return run / "evaluation" / f"{name}.hypotheses.jsonl"


def texts_folder(run: Path, name: str) -> Path:
    """Where an evaluation keeps its texts: ``<Convention.texts>.{hypotheses,references}.txt``."""
    return run / "evaluation" / f"{name}.texts"


def unfinished_file(run: Path, name: str) -> Path:
    """Where an evaluation keeps its translations while it is under way."""
    return run / "evaluation" / f"{name}.unfinished.jsonl"


def keep_card(run: Path, card: Scorecard, lines: Iterable[ScoredClip]) -> Scorecard:
    """Write a scorecard and its lines into a run; the card as it is kept."""
    path = lines_file(run, card.name)
    text = text_lines(json.dumps(asdict(line), ensure_ascii=False) for line in lines)
    io.write_atomic(path, text)
    kept = replace(card, table_sha256=hashlib.sha256(text).hexdigest())
    # The card last: where it stands, its hypotheses stand too.
    write_document(card_file(run, card.name), kept)
    return kept


def keep_groups(run: Path, card: Scorecard) -> Scorecard:
    """Write a scorecard whose translations the run has kept before; the card itself."""
    write_document(card_file(run, card.name), card)
    return card


class Unfinished:
    """Translations of an evaluation under way, by which a later one goes on after a kill.

    A line per batch, with a checksum and with what it belongs to. Lines of anything else, and what
    a kill cut off, are passed over; so several processes may write at the same time.

    Args:
        name: of the evaluation.
        identity: of all that the translations depend on.
    """

    def __init__(self, run: Path, name: str, identity: str) -> None:
        self.path = unfinished_file(run, name)
        self._identity = identity

    def read(self) -> dict[str, str]:
        """Clip -> its translation."""
        found: dict[str, str] = {}
        if not self.path.is_file():
            return found
        with io.reading(self.path):
            lines = self.path.read_bytes().split(b"\n")
        for line in lines:
            try:
                document = io.from_json(line, self.path)
            except DamagedError:
                continue
            if document.get("identity") == self._identity:
                found |= document["translations"]
        return found

    def add(self, translations: Mapping[str, str]) -> None:
        """Keep some more."""
        document = {"identity": self._identity, "translations": dict(translations)}
        with io.writing(self.path):
            io.make_folders(self.path.parent)
            with io.appending(self.path) as file:
                # Begins with the end of a line: the one before may have been cut off by a kill.
                file.write(f"\n{io.to_json(document)}\n".encode())


def text_lines(texts: Iterable[str]) -> bytes:
    """A text per line, in UTF-8."""
    return "".join(f"{text}\n" for text in texts).encode()


def read_card(path: Path) -> Scorecard:
    """The scorecard in a file of ``<run>/evaluation``.

    Raises:
        SpamoError: it is missing, or one of another version.
        DamagedError: it is not what was written.
    """
    return read_document(path, _CARD, "is no scorecard", "evaluate the run again")


def read_lines(run: Path, name: str) -> list[ScoredClip]:
    """The translations that an evaluation has kept.

    Raises:
        UsageError: there is no such evaluation of the run.
        DamagedError: they are not those that its card was made of.
    """
    path, card = lines_file(run, name), card_file(run, name)
    if not (path.is_file() and card.is_file()):
        raise UsageError(f"was not evaluated on {name}", where=run, remedy="evaluate it first")
    data = path.read_bytes()
    if io.read_json(card)["table_sha256"] != hashlib.sha256(data).hexdigest():
        raise DamagedError(
            "is not what the evaluation wrote",
            where=path,
            remedy="remove it, and evaluate the run again",
        )
    return [_LINE.validate_json(line) for line in data.split(b"\n")[:-1]]


def read_evaluation(run: Path, name: str) -> Evaluation:
    """A scorecard of a run with the lines behind it.

    Raises:
        UsageError: there is no such evaluation of the run.
        SpamoError: what was kept is damaged, or of another version.
    """
    lines = read_lines(run, name)
    card = read_card(card_file(run, name))
    known = {one.name: getattr(card, one.name) for one in fields(Scorecard)}
    return Evaluation(**known, lines=lines)


def read_evaluations(run: Path) -> list[Evaluation]:
    """All evaluations of a run, by name; raises as ``read_evaluation``."""
    return [read_evaluation(run, path.stem) for path in sorted((run / "evaluation").glob("*.json"))]
