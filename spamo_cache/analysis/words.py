"""When a token belongs to a word: spelling of glosses, sentences and an LLM's tokens.

Matching is by spelling alone, so what is found is a lower bound: a sign that the sentence says by
another word (NICHT as "kein") counts as missed. Equal treatment of all clips is what makes the
chance level a fair comparison.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from spamo_cache.model.tokens import Tokens

_STEM, _ENDING = 4, 3
"""An inflection begins with a word of so many letters, at least, and adds so many, at most."""

_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Japanese and Chinese, which set no spaces between words."""

_UMLAUTS = {"ae": "ä", "oe": "ö", "(?<![aeq])ue": "ü"}
"""How glosses without umlauts write them; NEUE and DAUER hold none."""


def plain(text: str) -> str:
    """Case and compatibility forms removed."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def gloss_words(gloss: str, language: str) -> list[str]:
    """Words of a gloss annotation, distinct, in their order.

    ``__ON__`` and other marks are none, nor are lower-case parts such as ``loc-`` beside a
    capital one, nor single letters; compounds are taken apart. German umlauts are put back: SUED
    is "süd".
    """
    parts: list[str] = []
    for sign in gloss.split():
        if sign.startswith("__"):
            continue
        pieces = re.findall(r"[^\W_]+", sign)
        capital = [piece for piece in pieces if piece != piece.lower()]
        parts += [part for part in capital or pieces if not re.fullmatch("[A-Za-z]", part)]
    umlauts = _umlauts if language.lower() in {"german", "de"} else str
    return list(dict.fromkeys(umlauts(plain(part)) for part in parts))


def text_words(text: str, tokens: Tokens) -> list[str]:
    """Words of a sentence, distinct; where a script sets no spaces, the LLM's own pieces."""
    found: list[str] = []
    for word in re.findall(r"[^\W_]+", plain(text)):
        found += pieces(word, tokens) if _UNSPACED.search(word) else [word]
    return list(dict.fromkeys(found))


def pieces(word: str, tokens: Tokens) -> list[str]:
    """What the LLM's tokenizer cuts a word into, as plain strings."""
    (ids,) = tokens.prompts([f" {word}"])
    return [text for text in map(plain, tokens.decode([[one] for one in ids])) if text]


class Matches:
    """Which tokens belong to which words, and which sets of tokens make a word up.

    A token belongs to a word if it is the word, an inflection of it (one is the other, of four
    letters at least, and an ending of three at most), or one of the pieces that the tokenizer
    cuts the word into. A word is hit by a token that is it or its inflection, or by all of its
    pieces together.

    Args:
        seen: plain strings of the tokens.
        words: plain words.
    """

    def __init__(self, seen: Iterable[str], words: Iterable[str], tokens: Tokens) -> None:
        seen = set(seen)
        stems: dict[str, set[str]] = {}
        for token in seen:
            for stem in _stems(token):
                stems.setdefault(stem, set()).add(token)
        self.whole: Mapping[str, set[str]] = {
            word: stems.get(word, set()) | seen.intersection(_stems(word)) for word in words
        }
        self.parts: Mapping[str, Sequence[set[str]]] = {
            word: list(map(set, _spellings(word, tokens))) for word in self.whole
        }

    def belonging(self, word: str) -> set[str]:
        """Every token that belongs to a word."""
        return self.whole[word].union(*self.parts[word])

    def making(self, word: str) -> list[set[str]]:
        """The sets of tokens each of which makes a word up."""
        return [*({token} for token in self.whole[word]), *self.parts[word]]


def _stems(word: str) -> list[str]:
    """The word, and what it may be an inflection of."""
    shortest = max(_STEM, len(word) - _ENDING)
    return [word, *(word[:length] for length in range(shortest, len(word)))]


def _spellings(word: str, tokens: Tokens) -> Iterable[list[str]]:
    """Pieces of a word as it stands within a sentence and, as nouns and names do, capitalised."""
    made = map(partial(pieces, tokens=tokens), dict.fromkeys([word, word.capitalize()]))
    return [spelling for spelling in made if "".join(spelling) == word]


def _umlauts(word: str) -> str:
    for written, letter in _UMLAUTS.items():
        word = re.sub(written, letter, word)
    return word
