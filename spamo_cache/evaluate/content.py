"""Content words: numbers, and the names and places of a list, of which so many are right.

BLEU forgives a wrong place or number as easily as a wrong article. Numbers in digits always
count; a list, one word or phrase per line, adds what matters on a corpus: number words, names,
places. A word counts as right as often as both sides say it, wherever it stands in the sentence.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex

from spamo_cache import bounded, config
from spamo_cache.errors import ConfigError
from spamo_cache.metrics import Measure, summarize
from spamo_cache.runs.records import ContentWords

FILE = "content_words.txt"
"""The list that comes with a corpus, in its folder of pipelines."""
_NUMBER = r"\p{N}+(?:[.,:]\p{N}+)*"
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_LARGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class ContentList:
    """What counts as a content word.

    Attributes:
        source: where the words are from, in words.
        words: in lower case, each once; numbers in digits count besides.
    """

    source: str
    words: tuple[str, ...]

    def found(self, texts: Sequence[str]) -> list[Counter[str]]:
        """The content words of each text, each as often as it is there."""
        # The longest first: a phrase counts once, as itself.
        longest = sorted(self.words, key=lambda word: (-len(word), word))
        pattern = regex.compile("|".join([*map(_whole, longest), _NUMBER]))
        return [Counter(pattern.findall(_plain(text))) for text in texts]


def content_list(corpus: str | None, given: Path | None = None) -> ContentList:
    """The list that is given, else the one that comes with the corpus, else numbers alone.

    Raises:
        ConfigError: a file that cannot be read, or lists nothing.
    """
    if given is not None:
        return ContentList(f"numbers and {given.name}", _words(given))
    shipped = config.shipped("pipelines") / (corpus or "") / FILE
    if corpus and shipped.is_file():
        return ContentList(f"numbers and the list of {corpus}", _words(shipped))
    return ContentList("numbers in digits", ())


def content_words(
    hypotheses: Sequence[str], references: Sequence[str], listed: ContentList, *, bootstrap: int
) -> ContentWords | None:
    """How many content words are right; None where neither side has any."""
    found = listed.found(hypotheses), listed.found(references)
    counts = np.array(
        [
            [(said & expected).total(), said.total(), expected.total()]
            for said, expected in zip(*found, strict=True)
        ]
    )
    right, said, expected = counts.sum(0).tolist()
    if not said + expected:
        return None
    scores = summarize(
        {
            "precision": Measure(counts, lambda row: _share(row[0], row[1]), listed.source),
            "recall": Measure(counts, lambda row: _share(row[0], row[2]), listed.source),
        },
        bootstrap=bootstrap,
    )
    return ContentWords(
        source=listed.source,
        right=right,
        said=said,
        expected=expected,
        metrics=scores.values,
        intervals=scores.intervals,
    )


def _share(right: float, of: float) -> float:
    return 100 * right / of if of else 0.0


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split())).lower()


def _whole(word: str) -> str:
    """A word that is no part of another; where there are no spaces, wherever it stands."""
    escaped = regex.escape(word)
    return escaped if _UNSPACED.search(word) else rf"(?<!\w){escaped}(?!\w)"


def _words(path: Path) -> tuple[str, ...]:
    try:
        lines = bounded.read_text(path, _LARGEST).splitlines()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path) from None
    except ValueError as error:
        raise ConfigError(str(error), where=path, remedy="save it as UTF-8") from None
    kept = (_plain(line) for line in lines if not line.lstrip().startswith("#"))
    words = tuple(dict.fromkeys(word for word in kept if word))
    if not words:
        raise ConfigError(
            "lists no content words", where=path, remedy="write a word or phrase per line"
        )
    return words
