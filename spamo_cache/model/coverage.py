"""What an LLM's tokenizer loses of the sentences that it is to learn or to say."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from spamo_cache.model.text import gist
from spamo_cache.model.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts over sentences in the corpus's convention.

    Attributes:
        sentences: how many there are.
        tokens: what they come to, end tokens left out.
        unknown: tokens among these that stand for anything the tokenizer does not know.
        lossy: sentences with such tokens, or whose letters do not all come back.
        long: sentences of more than ``limit`` tokens, end token included.
        longest: tokens of the longest one, end token included.
        limit: the most tokens that are learnt and said of a sentence.
    """

    sentences: int
    tokens: int
    unknown: int
    lossy: int
    long: int
    longest: int
    limit: int


def coverage(tokens: Tokens, sentences: Sequence[str], limit: int) -> Coverage:
    """Count what is lost of ``sentences``.

    Args:
        limit: ``decode.max_tokens``.
    """
    encoded = tokens.encode(sentences)
    # The end token, which every sentence has, is no part of what it says.
    said = [line[:-1] for line in encoded]
    unknown = [line.count(tokens.unknown) if tokens.unknown is not None else 0 for line in said]
    back = tokens.decode(encoded)
    lossy = [
        count > 0 or _letters(text) != _letters(found)
        for count, text, found in zip(unknown, sentences, back, strict=True)
    ]
    lengths = [len(line) for line in encoded]
    return Coverage(
        sentences=len(encoded),
        tokens=sum(map(len, said)),
        unknown=sum(unknown),
        lossy=sum(lossy),
        long=sum(length > limit for length in lengths),
        longest=max(lengths, default=0),
        limit=limit,
    )


def unknown_words(found: Coverage, what: str) -> str | None:
    """A sentence with numbers on what the tokenizer does not know; None where it knows all.

    Args:
        what: whose sentences these are, as in ``train``.
    """
    if not found.lossy:
        return None
    share = f"{found.lossy:,} of {found.sentences:,} sentences of {what}"
    if not found.unknown:
        return f"{share} lose letters in the LLM's tokenizer"
    return (
        f"{found.unknown:,} of {found.tokens:,} target tokens of {what} are unknown to the LLM's "
        f"tokenizer ({found.unknown / found.tokens:.1%}), in {share}"
    )


def cut_words(found: Coverage, what: str) -> str | None:
    """A sentence with numbers on what is too long to be said; None where nothing is."""
    if not found.long:
        return None
    return (
        f"{found.long:,} of {found.sentences:,} sentences of {what} have more than "
        f"decode.max_tokens = {found.limit} tokens and are cut there; the longest has "
        f"{found.longest:,}"
    )


def _letters(text: str) -> str:
    return gist(unicodedata.normalize("NFKC", text))
