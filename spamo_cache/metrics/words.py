"""Words of any script; scripts without spaces are read character by character."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import regex

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}"
_CHARACTER = regex.compile(f"[{_UNSPACED}]")
# Vowel signs of Indic scripts and combining accents are marks: part of the word they stand in.
_WORD = regex.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}])+")


def words(text: str) -> list[str]:
    """Words in lower case without punctuation; of Chinese and Japanese the characters."""
    found: list[str] = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return found


def unspaced(texts: Iterable[str]) -> bool:
    """Whether most of the texts are of a script that puts no spaces between words."""
    found = [bool(_CHARACTER.search(text)) for text in texts]
    return 2 * sum(found) > len(found)


def bare(text: str) -> str:
    """A sentence without the punctuation at its end."""
    end = len(text)
    while end and (text[end - 1].isspace() or unicodedata.category(text[end - 1]) == "Po"):
        end -= 1
    return text[:end]
