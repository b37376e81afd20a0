"""The text convention of a corpus, the same in training and in scoring."""

from __future__ import annotations

import unicodedata

from spamo_cache.config import TextConfig


def normalise(text: str, config: TextConfig) -> str:
    """Trim, collapse white space and apply the convention; the manifest keeps the raw text."""
    text = " ".join(text.split())
    if config.lower:
        text = text.lower()
    if config.final_dot and text and not _ends_sentence(text[-1]):
        text += " ."
    return text


def _ends_sentence(character: str) -> bool:
    return unicodedata.category(character) == "Po"
