"""The two dialects of signed-weather: one to train and test on, a second one to pretrain on.

Both report the weather in the same German. On the coast other people sign, and a third of the signs
differ: what is learnt there helps inland, but not with all of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spamo_cache.datasets.signed_weather.lexicon import LEXICON, Sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Who signs, and how.

    Attributes:
        name: of the corpus.
        prefix: of clip ids.
        signers: of all splits.
        unseen_signers: of the test split only.
        lexicon: gloss -> sign.
    """

    name: str
    prefix: str
    signers: tuple[int, ...]
    unseen_signers: tuple[int, ...]
    lexicon: Mapping[str, Sign]


INLAND = Dialect(
    name="signed-weather",
    prefix="",
    signers=(1, 2, 3, 4, 5, 6),
    unseen_signers=(7, 8),
    lexicon=LEXICON,
)

COASTAL_SIGNS: Mapping[str, Sign] = {
    "MONTAG": Sign("vee", "chin", "arc"),
    "DIENSTAG": Sign("three", "chin", "arc"),
    "MITTWOCH": Sign("four", "chin", "arc"),
    "DONNERSTAG": Sign("flat", "chin", "arc"),
    "FREITAG": Sign("index", "chin", "arc"),
    "SAMSTAG": Sign("pinky", "chin", "arc"),
    "SONNTAG": Sign("five", "chin", "arc"),
    "HEUTE": Sign("index", "belly", "tap"),
    "MORGEN": Sign("why", "temple", "right"),
    "KUESTE": Sign("five", "belly", "arc", both=True),
    "BERGE": Sign("flat", "temple", "up"),
    "REGEN": Sign("four", "high", "down", both=True),
    "SONNE": Sign("eff", "high", "tap"),
    "WIND": Sign("five", "high", "shake", both=True),
    "GEWITTER": Sign("fist", "high", "tap", both=True),
}
"""The signs that are not those of inland: a third of all."""

COAST = Dialect(
    name="signed-weather-coast",
    prefix="coast-",
    signers=(11, 12, 13, 14, 15, 16),
    unseen_signers=(17, 18),
    lexicon={**LEXICON, **COASTAL_SIGNS},
)

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (INLAND, COAST)}
