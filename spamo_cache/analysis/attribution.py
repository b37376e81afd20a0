"""Which rows of a clip made its translation likely: integrated gradients, word by word.

The score of a word is its log-likelihood in nats, given the clip and the words before it. Along
the straight line from a clip that says nothing (the baseline) to the clip itself, the gradients
of the score with respect to every row are averaged and multiplied by what changes in that row
(Sundararajan et al. 2017). What all rows get adds up to what the clip changes in the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spamo_cache.errors import UsageError
from spamo_cache.metrics.words import unspaced
from spamo_cache.model.rows import Packed, repeated
from spamo_cache.model.tokens import Tokens, padded_ids
from spamo_cache.model.translator import Batch, Translator

FEWEST, MOST = 32, 256
"""Points on the way from the baseline to the clip."""
TOLERANCE = 0.02
"""Points are doubled until the sum misses no more than this share of what it should be."""
_TOGETHER = 8
"""Points that are computed as one batch."""

Streams = Mapping[str, Tensor]
"""Stream -> (points, rows, width): one clip at several points of the way."""
Score = Callable[[Streams], Tensor]
"""(points, words) in nats; no point may depend on another one."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the rows of one clip did for each word of a sentence.

    Attributes:
        words: of the sentence; pieces of it where it has no spaces.
        rows: stream -> (words, rows) signed nats.
        clip, baseline: log-likelihood of the words given the clip, and given its baseline.
        steps: points on the way between the two.
    """

    words: Sequence[str]
    rows: Mapping[str, NDArray[np.float64]]
    clip: float
    baseline: float
    steps: int

    @property
    def attributed(self) -> float:
        """Sum over all words, streams and rows, in nats."""
        return float(sum(part.sum() for part in self.rows.values()))

    @property
    def error(self) -> float:
        """What was attributed too much or too little, as a share of the clip's whole effect."""
        effect = self.clip - self.baseline
        return abs(self.attributed - effect) / max(abs(effect), 1e-9)


def attribution(
    translator: Translator, batch: Batch, sentence: str, usual: Mapping[str, Tensor]
) -> Attribution:
    """Attribute a sentence to the rows of a clip; works for every LLM that translates.

    Args:
        translator: in evaluation mode.
        batch: one clip; its labels are not looked at.
        sentence: usually the clip's own translation.
        usual: stream -> (width,) the row that all rows of the baseline are: the mean of many
            clips says nothing about this one, and is nearer to real rows than zeros are.

    Raises:
        UsageError: an empty sentence.
    """
    (ids,) = translator.tokens.encode([sentence])
    words, owners = split_words(translator.tokens, ids)
    if not words:
        raise UsageError("an empty translation cannot be attributed to anything")
    clip = {name: packed.rows.float()[None] for name, packed in batch.streams.items()}
    blank = {name: usual[name].to(rows).expand_as(rows) for name, rows in clip.items()}
    labels = padded_ids([ids]).to(translator.device)
    spoken = torch.eye(len(words))[owners].to(translator.device)

    valid = {name: packed.valid for name, packed in batch.streams.items()}

    def score(streams: Streams) -> Tensor:
        said = _log_likelihood(translator, streams, valid, labels, batch.prompts)
        return said[:, : len(spoken)] @ spoken

    with torch.inference_mode():
        given, without = (float(score(end).sum()) for end in (clip, blank))
    steps = FEWEST
    while True:
        rows = integrate(score, blank, clip, steps=steps)
        found = {name: part.double().cpu().numpy() for name, part in rows.items()}
        result = Attribution(words, found, given, without, steps)
        if result.error <= TOLERANCE or steps >= MOST:
            return result
        steps *= 2


def integrate(score: Score, blank: Streams, clip: Streams, *, steps: int) -> dict[str, Tensor]:
    """Integrated gradients of every word's score, by Gauss-Legendre quadrature.

    Args:
        blank, clip: where the way begins and where it ends; one point each.

    Returns:
        Stream -> (words, rows), summed over the width of a row.
    """
    device = next(iter(clip.values())).device
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(steps))
    points, shares = ((nodes + 1) / 2).float().to(device), (weights / 2).float().to(device)
    change = {name: rows - blank[name] for name, rows in clip.items()}
    parts = []
    for some, share in zip(points.split(_TOGETHER), shares.split(_TOGETHER), strict=True):
        at = {
            name: (blank[name] + some[:, None, None] * way).requires_grad_()
            for name, way in change.items()
        }
        parts.append(_gradients(share @ score(at), at))
    return {
        name: torch.stack([(part[name] * way).sum(-1) for part in parts]).sum(0)
        for name, way in change.items()
    }


def _gradients(scores: Tensor, at: Streams) -> dict[str, Tensor]:
    """Stream -> (words, rows, width): gradients of each score, summed over the points."""
    found = [torch.autograd.grad(word, list(at.values()), retain_graph=True) for word in scores]
    by_stream = zip(*found, strict=True)
    return {
        name: torch.stack(list(parts)).sum(1) for name, parts in zip(at, by_stream, strict=True)
    }


def _log_likelihood(
    translator: Translator,
    streams: Streams,
    valid: Mapping[str, Tensor | None],
    labels: Tensor,
    prompts: Packed | None,
) -> Tensor:
    """(points, tokens) log-likelihood of each label, given the labels before it."""
    points = len(next(iter(streams.values())))
    packed = {}
    for name, rows in streams.items():
        lengths, marked = labels.new_full((points,), rows.shape[1]), valid[name]
        marked = None if marked is None else marked.repeat(points)
        packed[name] = Packed(rows.flatten(0, 1), lengths, valid=marked)
    prompted = None if prompts is None else repeated(prompts.rows, points)
    read = translator.inputs(translator.sign(packed), prompted)
    said = labels.expand(points, -1)
    logits = translator.attach().logits(read, said)
    return logits.log_softmax(-1).gather(2, said[..., None])[..., 0]


def split_words(tokens: Tokens, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """The words that token ids spell, and for each token before the end the number of its word.

    In scripts that set no spaces, words are what tokens spell, cut at characters.
    """
    own = [token for token in ids if token != tokens.end]
    starts = tokens.decode([own[: stop + 1] for stop in range(len(own))])
    text = starts[-1] if starts else ""
    spaced = not unspaced([text])
    units, glue = (text.split(), " ") if spaced else (list(text), "")
    if not units:
        return [], []
    # How many words are there once a token is said; the first token begins the first of them.
    counts = [len(start.split() if spaced else start) for start in starts]
    reached = np.maximum.accumulate(np.clip(counts, 1, len(units)))
    stops, owners = np.unique(reached, return_inverse=True)
    pairs = zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True)
    return [glue.join(units[first:stop]) for first, stop in pairs], owners.tolist()
