"""ROUGE-L under the three conventions of the field; means over clips of a sentence's F.

rouge_l           F1 over the words of any script, over the characters of Chinese
rouge_l_official  F1 as the official release has it: a-z and 0-9 alone, English endings taken
                  off, so that umlauts split words and Chinese scores 0
rouge_l_coco      F with beta 1.2 over what stands between spaces, over the characters of
                  Chinese: MSCOCO's, which most papers on PHOENIX14T report
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from spamo_cache import compat
from spamo_cache.metrics.intervals import Measure, mean_of
from spamo_cache.metrics.words import unspaced, words

with compat.some_home():
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

_BETA = 1.2
_VERSION = version("rouge-score")


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """The three ROUGE-L; an empty sentence scores 0."""
    spaceless = unspaced(references)
    pairs = list(zip(hypotheses, references, strict=True))
    conventions: Mapping[str, tuple[Any, float, str]] = {
        "rouge_l": (_Split(words), 1.0, "case:lc|tok:unicode|stem:no"),
        "rouge_l_official": (DefaultTokenizer(use_stemmer=True), 1.0, "case:lc|tok:a-z0-9|stem:en"),
        "rouge_l_coco": (
            _Split(_characters if spaceless else str.split),
            _BETA,
            f"case:mixed|tok:{'char' if spaceless else 'space'}|stem:no",
        ),
    }
    return {
        name: mean_of(
            [100 * _f(tokenizer, beta, *pair) for pair in pairs],
            f"{settings}|beta:{beta:g}|rouge-score:{_VERSION}",
        )
        for name, (tokenizer, beta, settings) in conventions.items()
    }


def _f(tokenizer: Any, beta: float, hypothesis: str, reference: str) -> float:
    found = RougeScorer(["rougeL"], tokenizer=tokenizer).score(reference, hypothesis)["rougeL"]
    weighed = found.recall + beta**2 * found.precision
    return (1 + beta**2) * found.precision * found.recall / weighed if weighed else 0.0


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


class _Split:
    """A function as a tokenizer of rouge-score."""

    def __init__(self, split: Callable[[str], list[str]]) -> None:
        self._split = split

    def tokenize(self, text: str) -> list[str]:
        return self._split(text)
