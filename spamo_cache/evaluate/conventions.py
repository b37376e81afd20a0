"""BLEU-4 under every convention that papers use, side by side: case, final dot, tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from spamo_cache.config import TextConfig
from spamo_cache.evaluate.metrics import bleu4
from spamo_cache.evaluate.words import bare, unspaced
from spamo_cache.model.text import normalise

Dot = bool | Literal["attached"] | None

_DOTS: dict[Dot, str] = {
    False: "final punctuation as it stands",
    None: "no final punctuation",
    True: 'final " ."',
    "attached": 'final "."',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """BLEU-4 of one set of hypotheses under one convention.

    Attributes:
        name: the convention in words.
        lower: both sides in lower case.
        final_dot: as in :class:`TextConfig`; None: without the punctuation at the end.
        tokenize: sacrebleu's tokenizer.
        bleu4: in points of 100.
        headline: this is the convention of the run's own scores.
    """

    name: str
    lower: bool
    final_dot: Dot
    tokenize: str
    bleu4: float
    headline: bool


def conventions(
    hypotheses: Sequence[str], references: Sequence[str], own: TextConfig
) -> list[Convention]:
    """The headline first; conventions under which no text reads otherwise are named once.

    Args:
        hypotheses: what the LLM said.
        references: as they stand in the manifest, one per hypothesis.
        own: the convention of the run's scores.
    """
    found: list[Convention] = []
    seen = set()
    for lower, dot, tokenize in _all(references, own):
        texts = [[_told(text, lower, dot) for text in side] for side in (hypotheses, references)]
        key = (tokenize, *map(tuple, texts))
        if key not in seen:
            found.append(
                Convention(
                    name=f"{'lower case' if lower else 'cased'}, {_DOTS[dot]}, {tokenize}",
                    lower=lower,
                    final_dot=dot,
                    tokenize=tokenize,
                    bleu4=bleu4(*texts, tokenize=tokenize),
                    headline=not found,
                )
            )
        seen.add(key)
    return found


def _all(references: Sequence[str], own: TextConfig) -> Iterator[tuple[bool, Dot, str]]:
    usual = ("zh", "char", "13a") if unspaced(references) else ("13a", "none")
    # What has learnt to say lower case, or a final dot, is not to be scored on anything else.
    cases = (True,) if own.lower else (False, True)
    dots: tuple[Dot, ...] = (own.final_dot, None)
    if not own.final_dot and not _punctuated(references):
        dots = (False, None, True)
    yield from product(cases, dots, dict.fromkeys((own.tokenize, *usual)))


def _punctuated(texts: Sequence[str]) -> bool:
    return 2 * sum(text != bare(text) for text in texts) > len(texts)


def _told(text: str, lower: bool, dot: Dot) -> str:
    text = bare(text) if dot is None else text
    return normalise(text, TextConfig(language="", lower=lower, final_dot=dot or False))
