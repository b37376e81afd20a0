"""The text convention of a corpus: references and targets follow it, hypotheses need not."""

from __future__ import annotations

import unicodedata

from spamo_cache.config import TextConfig


def normalise(text: str, config: TextConfig) -> str:
    """Trim, collapse white space and apply the convention; the manifest keeps the raw text."""
    text = " ".join(text.split())
    if config.lower:
        text = text.lower()
    if not text:
        return text
    if config.final_dot == "attached":
        return text if text.endswith(".") else f"{text}."
    return f"{text} ." if config.final_dot and not _ends_sentence(text[-1]) else text


def scored(hypothesis: str, config: TextConfig) -> str:
    """A hypothesis as it is scored: as it was decoded, or as ``config.hypotheses`` changes it."""
    if config.hypotheses == "convention":
        return normalise(hypothesis, config)
    text = " ".join(hypothesis.split())
    return text.lower() if config.hypotheses == "lower" else text


def _ends_sentence(character: str) -> bool:
    return unicodedata.category(character) == "Po"
