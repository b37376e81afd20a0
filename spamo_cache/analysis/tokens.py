"""Visual tokens against glosses and translations, over a whole split (paper section 4).

A clip's visual tokens are the LLM tokens nearest to its sign rows, one a row (:class:`Vocabulary`).
**Coverage** is the share of its words they hit, **precision** the share of its rows whose token
belongs to one of them (:class:`Matches`), both as means over clips. Tokens that occur in every
sentence would score as well anywhere, so each number stands beside **chance**: the same tokens
scored against the words of another clip, in permutations of the clips.

Matching is by spelling alone, so coverage is a lower bound: a sign that the sentence says by
another word (NICHT as "kein") counts as missed. Equal treatment of all clips is what makes the
chance level a fair comparison.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from spamo_cache.datasets.manifest import Clip
from spamo_cache.model.rows import Padded
from spamo_cache.model.tokens import Tokens
from spamo_cache.model.translator import Translator
from spamo_cache.runs.analyses import (
    AgainstChance,
    TokenExample,
    TokenRow,
    VisualTokens,
    WordScores,
)

Floats = NDArray[np.float32]

PERMUTATIONS = 999
HOW = (
    "nearest LLM token of each sign row by cosine with the input embeddings less their centre; "
    "words match by spelling (case, umlauts and endings aside; a word by all its pieces, a token "
    "by being one of them), so a sign said by another word counts as missed; chance: the same "
    "tokens against other clips' words"
)
EXAMPLES = 6
"""Clips that an analysis keeps row by row."""
_BLOCK = 4096
"""Embeddings that are looked at together: bounds memory, whatever the vocabulary."""

_STEM, _ENDING = 4, 3
"""An inflection begins with a word of so many letters, at least, and adds so many, at most."""

_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Japanese and Chinese, which set no spaces between words."""

_UMLAUTS = {"ae": "ä", "oe": "ö", "(?<![aeq])ue": "ü"}
"""How glosses without umlauts write them; NEUE and DAUER hold none."""


@dataclass(frozen=True, slots=True)
class Visual:
    """The visual tokens of one clip: what each row's is written like, and its cosine."""

    written: Sequence[str]
    cosines: Sequence[float]

    @property
    def plain(self) -> list[str]:
        return [plain(token) for token in self.written]


class Vocabulary:
    """The tokens that a sign row can look like, and where they lie.

    Special tokens and those without letter or digit are none. A token lies at its input embedding
    less the centre: VT-Align's own (the mean of the training sentences) where it has one, else
    the mean of the table. Sign rows are taken as they are, as VT-Align takes them. Without a
    centre the cosines would mostly be with the direction that all embeddings share.
    """

    def __init__(self, translator: Translator) -> None:
        self._embed = translator.embeddings
        self.written = translator.tokens.written()
        usable = [any(map(str.isalnum, text)) for text in self.written]
        # A tokenizer may know more ids than the model.
        rows = len(translator.embeddings.get_parameter("weight"))
        ids = torch.tensor(usable[:rows]).nonzero()[:, 0]
        self._blocks = ids.to(translator.device).split(_BLOCK)
        self.size = len(ids)
        own = translator.align.center
        self.center = own if own.any() else self._mean()

    def read(self, clips: Padded) -> list[Visual]:
        """The tokens that each clip's valid sign rows look like."""
        ids, cosines = self.nearest(clips.rows[clips.mask])
        sizes = clips.mask.sum(1).tolist()
        return [
            Visual([self.written[token] for token in tokens.tolist()], near.tolist())
            for tokens, near in zip(ids.split(sizes), cosines.split(sizes), strict=True)
        ]

    @torch.inference_mode()
    def nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of the nearest tokens of (rows, width) sign rows, and their cosines."""
        rows = F.normalize(rows.float(), dim=-1)
        best = rows.new_full((len(rows),), -torch.inf)
        chosen = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        for ids in self._blocks:
            placed = F.normalize(self._embed(ids).float() - self.center, dim=-1)
            cosine, place = (rows @ placed.T).max(1)
            chosen = torch.where(cosine > best, ids[place], chosen)
            best = best.maximum(cosine)
        return chosen, best

    @torch.inference_mode()
    def _mean(self) -> Tensor:
        total = torch.stack([self._embed(ids).float().sum(0) for ids in self._blocks]).sum(0)
        return total / self.size


# --- against words ------------------------------------------------------------------------------


def compare(
    seen: Sequence[Visual],
    clips: Sequence[Clip],
    tokens: Tokens,
    *,
    candidates: int,
    examples: int = EXAMPLES,
) -> VisualTokens:
    """Visual tokens against gloss annotations and against the translation.

    Args:
        candidates: tokens that a row could have looked like.
        examples: clips that are kept row by row.
    """
    glosses = [gloss_words(clip.gloss or "", clip.language) for clip in clips]
    gloss = Reference(seen, glosses, tokens)
    text = Reference(seen, [text_words(clip.text, tokens) for clip in clips], tokens)
    spread = np.linspace(0, len(clips) - 1, min(len(clips), examples)).round().astype(int)
    return VisualTokens(
        candidates=candidates,
        how=HOW,
        permutations=PERMUTATIONS,
        rows=sum(len(visual.written) for visual in seen),
        gloss=gloss.scores(),
        text=text.scores(),
        examples=[
            _example(clips[i], seen[i], gloss.belongs(i), text.belongs(i)) for i in spread.tolist()
        ],
    )


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

    def scores(self) -> WordScores | None:
        """Coverage and precision with their chance levels; None if no clip has words."""
        chosen = [i for i, words in enumerate(self.words) if words and self.seen[i]]
        if not chosen:
            return None
        coverage, precision = self._crossed(chosen)
        return WordScores(
            clips=len(chosen),
            words=float(np.mean([len(self.words[i]) for i in chosen])),
            coverage=against_chance(coverage),
            precision=against_chance(precision),
        )

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


def against_chance(crossed_nn: Floats) -> AgainstChance:
    """The mean of the diagonal, and what it is when clips are permuted."""
    n = len(crossed_nn)
    rng = np.random.default_rng(0)
    drawn = [crossed_nn[np.arange(n), rng.permutation(n)].mean() for _ in range(PERMUTATIONS)]
    value = float(np.diagonal(crossed_nn).mean())
    # Sums of equal numbers in another order differ by rounding.
    reached = int((np.array(drawn) >= value - 1e-6).sum())
    return AgainstChance(
        value=value,
        chance=float(np.mean(drawn)),
        spread=float(np.std(drawn)),
        p=(1 + reached) / (1 + PERMUTATIONS),
    )


def _example(
    clip: Clip, visual: Visual, gloss: Sequence[bool], text: Sequence[bool]
) -> TokenExample:
    rows = zip(visual.written, visual.cosines, gloss, text, strict=True)
    return TokenExample(
        clip=clip.id,
        gloss=clip.gloss.split() if clip.gloss else None,
        text=clip.text,
        rows=[
            TokenRow(token=token, cosine=round(cosine, 3), gloss=by_gloss, text=by_text)
            for token, cosine, by_gloss, by_text in rows
        ],
    )


def _shares(lines: Sequence[Sequence[str]]) -> tuple[Floats, dict[str, int]]:
    """(lines, distinct strings) share that each string has of a line, and its column."""
    at = {name: k for k, name in enumerate(sorted({name for line in lines for name in line}))}
    shares = np.zeros((len(lines), len(at)), np.float32)
    for i, line in enumerate(lines):
        for name, count in Counter(line).items():
            shares[i, at[name]] = count / len(line)
    return shares, at


# --- which tokens belong to which words ---------------------------------------------------------


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
        self.pieces: Mapping[str, Sequence[set[str]]] = {
            word: list(map(set, _spellings(word, tokens))) for word in self.whole
        }

    def belonging(self, word: str) -> set[str]:
        """Every token that belongs to a word."""
        return self.whole[word].union(*self.pieces[word])

    def making(self, word: str) -> list[set[str]]:
        """The sets of tokens each of which makes a word up."""
        return [*({token} for token in self.whole[word]), *self.pieces[word]]


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
