"""Scores of translations, and BLEU-4 under every convention that papers use, side by side.

Conventions differ in case, final dot and tokenizer. References follow the convention; hypotheses
are taken as they are scored. Only what both sides lose alike (case, final punctuation) is taken
from hypotheses too: nothing is ever added to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from spamo_cache import human
from spamo_cache.config import TextConfig
from spamo_cache.errors import UsageError
from spamo_cache.metrics import BOOTSTRAP, bare, bleu4, measures, summarize, unspaced
from spamo_cache.model.text import normalise
from spamo_cache.runs.records import Convention, Dot, ScoreWarning, TranslationScores

_DOTS: dict[Dot, str] = {
    False: "final punctuation as it stands",
    None: "no final punctuation",
    True: 'references end in " ."',
    "attached": 'references end in "."',
}
_SPACELESS = {"Chinese", "Japanese"}
_HYPOTHESES = {
    "as-said": "",
    "lower": ", hypotheses put in lower case",
    "convention": ", hypotheses put under it too",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Both sides as one convention has them.

    Attributes:
        words: the convention in words, but for the tokenizer.
        lower: references in lower case, and hypotheses with them where case is ignored.
        final_dot: as in :class:`TextConfig`; None: both sides without the punctuation at the end.
        hypotheses: one per clip.
        references: one per hypothesis.
    """

    words: str
    lower: bool
    final_dot: Dot
    hypotheses: tuple[str, ...]
    references: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What its files are called."""
        return re.sub(r"\W+", "-", self.words).strip("-")


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    language: str = "",
    tokenize: str | None = None,
    bootstrap: int = BOOTSTRAP,
) -> TranslationScores:
    """Score translations from anywhere as runs are scored; the texts are not changed.

    BLEU, chrF and TER are those of sacrebleu's command line. BLEURT is left out.

    Args:
        hypotheses: one per sentence.
        references: one per hypothesis.
        language: of the references, in English (``German``); it only chooses the tokenizer.
        tokenize: sacrebleu's tokenizer for BLEU; None: ``zh`` for texts without spaces between
            words, else ``13a``.
        bootstrap: resamples behind the intervals; 0 leaves them out.

    Raises:
        UsageError: no references, another number of hypotheses, or an unknown tokenizer; a string
            in place of a list.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise UsageError("one string is not a list of sentences", remedy="put it in a list")
    if len(hypotheses) != len(references) or not references:
        raise UsageError(
            f"{human.count(len(hypotheses), 'hypothesis', 'hypotheses')} for "
            f"{human.count(len(references), 'reference')}",
            remedy="give one hypothesis per reference, an empty one where there is none",
        )
    spaceless = language in _SPACELESS or unspaced(references)
    try:
        own = TextConfig.model_validate(
            {"language": language, "tokenize": tokenize or ("zh" if spaceless else "13a")}
        )
    except ValidationError:
        raise UsageError(
            f"sacrebleu's tokenizer {tokenize!r} is not among those known here",
            remedy="choose 13a, none, zh, char or intl",
        ) from None
    scores = summarize(measures(hypotheses, references, tokenize=own.tokenize), bootstrap=bootstrap)
    rows = conventions(hypotheses, references, own)
    return TranslationScores(
        n=scores.n,
        metrics=scores.values,
        intervals=scores.intervals,
        signatures=scores.signatures,
        bootstrap=scores.bootstrap,
        headline=headline(own),
        conventions=rows,
        warnings=[*_empty(hypotheses), *tokenizer_warnings(own.tokenize, references, rows)],
    )


def headline(own: TextConfig, rouge: str = "rouge_l") -> dict[str, Any]:
    """The convention of a card's ``metrics``, and the ROUGE-L that is the one to quote."""
    return own.model_dump(include={"tokenize", "lower", "final_dot", "hypotheses"}) | {
        "rouge": rouge
    }


def tokenizer_warnings(
    tokenize: str, references: Sequence[str], rows: Sequence[Convention]
) -> Iterator[ScoreWarning]:
    """Whether BLEU's tokenizer takes whole clauses for words."""
    if tokenize in {"zh", "char"} or not unspaced(references):
        return
    values = {row.tokenize: row.bleu4 for row in reversed(rows)}
    yield ScoreWarning(
        kind=f"{tokenize}-on-chinese",
        words=f"The tokenizer {tokenize} takes a whole clause for one word: BLEU-4 "
        f"{values[tokenize]:.2f}, where characters (zh) give {values['zh']:.2f}.",
        severity="warning",
    )


def _empty(hypotheses: Sequence[str]) -> Iterator[ScoreWarning]:
    if empty := sum(not text.strip() for text in hypotheses):
        yield ScoreWarning(
            kind="empty",
            words=f"{empty} of {len(hypotheses)} hypotheses are empty.",
            clips=empty,
        )


def conventions(
    hypotheses: Sequence[str], references: Sequence[str], own: TextConfig
) -> list[Convention]:
    """The headline first.

    Args:
        hypotheses: as they are scored.
        references: as they are scored, one per hypothesis.
        own: the convention of the run's scores.
    """
    usual = ("zh", "char", "13a") if unspaced(references) else ("13a", "none")
    found = product(texts(hypotheses, references, own), dict.fromkeys((own.tokenize, *usual)))
    return [
        Convention(
            name=f"{one.words}, {tokenize}",
            lower=one.lower,
            final_dot=one.final_dot,
            tokenize=tokenize,
            texts=one.stem,
            bleu4=bleu4(one.hypotheses, one.references, tokenize=tokenize),
            headline=number == 0,
        )
        for number, (one, tokenize) in enumerate(found)
    ]


def texts(hypotheses: Sequence[str], references: Sequence[str], own: TextConfig) -> list[Texts]:
    """The texts of all conventions, the headline's first, none of them twice.

    Args:
        hypotheses: as they are scored.
        references: as they are scored.
        own: the convention of the run's scores.
    """
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], Texts] = {}
    for one in _all(hypotheses, references, own):
        found.setdefault((one.hypotheses, one.references), one)
    return list(found.values())


def _all(hypotheses: Sequence[str], references: Sequence[str], own: TextConfig) -> Iterator[Texts]:
    dots: tuple[Dot, ...] = (own.final_dot, None)
    if not own.final_dot and not _punctuated(references):
        dots = (False, None, True)
    for ignored, dot in product((False, True), dots):
        case = "case ignored" if ignored else "lower case" if own.lower else "cased"
        yield Texts(
            words=f"{case}, {_DOTS[dot]}{_HYPOTHESES[own.hypotheses]}",
            lower=ignored or own.lower,
            final_dot=dot,
            hypotheses=tuple(_told(text, ignored, dot is None) for text in hypotheses),
            references=tuple(
                _told(_dotted(text, dot), ignored, dot is None) for text in references
            ),
        )


def _punctuated(texts: Sequence[str]) -> bool:
    return 2 * sum(text != bare(text) for text in texts) > len(texts)


def _told(text: str, lower: bool, stripped: bool) -> str:
    text = bare(text) if stripped else text
    return text.lower() if lower else text


def _dotted(text: str, dot: Dot) -> str:
    return normalise(text, TextConfig(language="", final_dot=dot or False))
