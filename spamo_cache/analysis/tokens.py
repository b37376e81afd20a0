"""Visual tokens against glosses and translations, over a whole split (paper section 4).

A clip's visual tokens are the LLM tokens nearest to its sign rows, one a row. **Coverage** is the
share of its words they hit, **precision** the share of its rows whose token belongs to one of
them (:class:`spamo_cache.analysis.words.Matches`), both as means over clips. Tokens that occur in
every sentence would score as well anywhere, so each number stands beside **chance**: the same
tokens scored against the words of another clip, in permutations of the clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.analysis.words import Matches, gloss_words, plain, text_words
from spamo_cache.datasets.manifest import Clip
from spamo_cache.model.tokens import Tokens

Floats = NDArray[np.float32]

PERMUTATIONS = 999
HOW = (
    "nearest LLM token of each sign row by cosine with the input embeddings less their centre; "
    "words match by spelling (case, umlauts and endings aside; a word by all its pieces, a token "
    "by being one of them), so a sign said by another word counts as missed; chance: the same "
    "tokens against other clips' words"
)
_EXAMPLES = 6


@dataclass(frozen=True, slots=True)
class Visual:
    """The visual tokens of one clip: what each row's is written like, and its cosine."""

    written: Sequence[str]
    cosines: Sequence[float]

    @property
    def plain(self) -> list[str]:
        return [plain(token) for token in self.written]


class Reference:
    """What visual tokens are compared with: each clip's words, and which tokens belong to them."""

    def __init__(
        self, seen: Sequence[Visual], words: Sequence[Sequence[str]], tokens: Tokens
    ) -> None:
        self.seen, self.words = [visual.plain for visual in seen], words
        vocabulary = dict.fromkeys(word for line in words for word in line)
        self.matches = Matches({token for line in self.seen for token in line}, vocabulary, tokens)

    def belongs(self, clip: int) -> list[bool]:
        """Of each row of a clip, whether its token belongs to one of the clip's words."""
        known = set().union(*(self.matches.belonging(word) for word in self.words[clip]))
        return [token in known for token in self.seen[clip]]

    def scores(self) -> dict[str, Any] | None:
        """Coverage and precision with their chance levels; None if no clip has words."""
        chosen = [i for i, words in enumerate(self.words) if words and self.seen[i]]
        if not chosen:
            return None
        coverage, precision = self._crossed(chosen)
        return {
            "clips": len(chosen),
            "words": float(np.mean([len(self.words[i]) for i in chosen])),
            "coverage": against_chance(coverage),
            "precision": against_chance(precision),
        }

    def _crossed(self, chosen: Sequence[int]) -> tuple[Floats, Floats]:
        """(n, n) coverage and precision of clip i's tokens against clip j's words."""
        shown, token_at = _shares([self.seen[i] for i in chosen])
        named, word_at = _shares([self.words[i] for i in chosen])
        present, belongs = shown > 0, np.zeros_like(shown)
        hits = np.zeros_like(named)
        for word, k in word_at.items():
            owned = [token_at[t] for t in self.matches.belonging(word) if t in token_at]
            belongs[np.ix_(named[:, k] > 0, np.array(owned, np.int64))] = 1
            for whole in self.matches.making(word):
                if whole <= token_at.keys():
                    hits[present[:, [token_at[token] for token in whole]].all(axis=1), k] = 1
        return hits @ named.T, shown @ belongs.T


def against_chance(crossed_nn: Floats) -> dict[str, float]:
    """The mean of the diagonal, and what it is when clips are permuted.

    Returns:
        ``value``; ``chance`` and ``spread``, the mean and the standard deviation over the
        permutations; ``p``, the share of them that reach the value, itself counted among them.
    """
    n = len(crossed_nn)
    rng = np.random.default_rng(0)
    drawn = [crossed_nn[np.arange(n), rng.permutation(n)].mean() for _ in range(PERMUTATIONS)]
    value = float(np.diagonal(crossed_nn).mean())
    # Sums of equal numbers in another order differ by rounding.
    reached = int((np.array(drawn) >= value - 1e-6).sum())
    return {
        "value": value,
        "chance": float(np.mean(drawn)),
        "spread": float(np.std(drawn)),
        "p": (1 + reached) / (1 + PERMUTATIONS),
    }


def compare(seen: Sequence[Visual], clips: Sequence[Clip], tokens: Tokens) -> dict[str, Any]:
    """Visual tokens against gloss annotations and against the translation.

    Returns:
        ``gloss`` and ``text`` (see :meth:`Reference.scores`; None without glosses), ``rows`` in
        all, and ``examples``: of some clips every row's token with its cosine, and whether it
        belongs to the glosses and to the translation.
    """
    glosses = [gloss_words(clip.gloss or "", clip.language) for clip in clips]
    gloss = Reference(seen, glosses, tokens)
    text = Reference(seen, [text_words(clip.text, tokens) for clip in clips], tokens)
    spread = np.linspace(0, len(clips) - 1, min(len(clips), _EXAMPLES)).round().astype(int)
    return {
        "how": HOW,
        "permutations": PERMUTATIONS,
        "rows": sum(len(visual.written) for visual in seen),
        "gloss": gloss.scores(),
        "text": text.scores(),
        "examples": [
            _example(clips[i], seen[i], gloss.belongs(i), text.belongs(i)) for i in spread.tolist()
        ],
    }


def _example(
    clip: Clip, visual: Visual, gloss: Sequence[bool], text: Sequence[bool]
) -> Mapping[str, Any]:
    rows = zip(visual.written, visual.cosines, gloss, text, strict=True)
    return {
        "clip": clip.id,
        "gloss": clip.gloss.split() if clip.gloss else None,
        "text": clip.text,
        "rows": [
            {"token": token, "cosine": round(cosine, 3), "gloss": by_gloss, "text": by_text}
            for token, cosine, by_gloss, by_text in rows
        ],
    }


def _shares(lines: Sequence[Sequence[str]]) -> tuple[Floats, dict[str, int]]:
    """(lines, distinct strings) share that each string has of a line, and its column."""
    at = {name: k for k, name in enumerate(sorted({name for line in lines for name in line}))}
    shares = np.zeros((len(lines), len(at)), np.float32)
    for i, line in enumerate(lines):
        for name, count in Counter(line).items():
            shares[i, at[name]] = count / len(line)
    return shares, at
