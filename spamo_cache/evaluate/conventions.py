"""BLEU-4 under every convention that papers use, side by side: case, final dot, tokenizer.

References follow the convention; hypotheses are taken as they are scored. Only what both sides
lose alike (case, final punctuation) is taken from hypotheses too: nothing is ever added to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from spamo_cache.config import TextConfig
from spamo_cache.metrics.scores import bleu4
from spamo_cache.metrics.words import bare, unspaced
from spamo_cache.model.text import normalise

Dot = bool | Literal["attached"] | None

_DOTS: dict[Dot, str] = {
    False: "final punctuation as it stands",
    None: "no final punctuation",
    True: 'references end in " ."',
    "attached": 'references end in "."',
}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """BLEU-4 of one set of hypotheses under one convention.

    Attributes:
        name: the convention in words.
        lower: as in :class:`Texts`.
        final_dot: as in :class:`Texts`.
        tokenize: sacrebleu's tokenizer.
        texts: what the files of its texts are called, see ``scorecard.texts_folder``.
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
