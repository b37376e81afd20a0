"""How two sets of paired vectors lie to one another; pure functions of NumPy arrays.

``sign_nd`` holds one unit vector per clip, ``text_md`` one per distinct sentence, and ``own_n``
says which sentence is each clip's own. Equal sentences are one sentence: no ranking could tell
them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spamo_cache.runs.analyses import MutualInformation

Floats = NDArray[np.float32] | NDArray[np.float64]
Ints = NDArray[np.int64]


def ranks(sign_nd: Floats, text_md: Floats, own_n: Ints) -> Ints:
    """(n,) rank of each clip's own sentence among all sentences by cosine; 1 is the nearest.

    A sentence as near as the own one counts as nearer: a model that places everything at one
    point must not look perfect.
    """
    similarity_nm = sign_nd @ text_md.T
    own = np.take_along_axis(similarity_nm, own_n[:, None], axis=1)
    return np.asarray((similarity_nm >= own).sum(axis=1), dtype=np.int64)


def recall(ranks_n: Ints, k: int) -> float:
    """Share of clips whose own sentence is among the ``k`` nearest (0..1)."""
    return float((ranks_n <= k).mean())


def modality_gap(sign_nd: Floats, text_nd: Floats) -> float:
    """Distance between the means of the two sets of unit vectors (0..2; Liang et al. 2022)."""
    return float(np.linalg.norm(sign_nd.mean(axis=0) - text_nd.mean(axis=0)))


def cosines(sign_nd: Floats, text_md: Floats, own_n: Ints) -> tuple[float, float | None]:
    """Mean cosine of clips with their own sentence, and with all others (None without any)."""
    similarity_nm = sign_nd @ text_md.T
    own = np.zeros(similarity_nm.shape, dtype=bool)
    own[np.arange(len(own_n)), own_n] = True
    others = similarity_nm[~own]
    return float(similarity_nm[own].mean()), float(others.mean()) if others.size else None


def distinct(texts: Sequence[str]) -> tuple[list[int], Ints]:
    """Positions of the distinct sentences, and for each sentence its place among them."""
    first: dict[str, int] = {}
    own = [first.setdefault(text, len(first)) for text in texts]
    kept: dict[str, int] = {}
    for position, text in enumerate(texts):
        kept.setdefault(text, position)
    return list(kept.values()), np.array(own, dtype=np.int64)


def cka(sign_nd: Floats, text_nd: Floats) -> float | None:
    """Debiased linear centred kernel alignment: do clips lie to one another as sentences do?

    1 for sets that a rotation and a scale turn into each other, 0 in the mean for unrelated ones
    (so it may come out slightly negative), whatever the widths; the plain estimate is near 1 for
    any two sets that are wider than large. HSIC by its unbiased estimate (Song et al. 2012). None
    for fewer than four clips, or where all clips or all sentences lie at one point.
    """
    if len(sign_nd) < 4:
        return None
    sign, text = _gram(sign_nd), _gram(text_nd)
    own, other = _hsic(sign, sign), _hsic(text, text)
    if min(own, other) <= _NOTHING:
        return None
    return float(_hsic(sign, text) / np.sqrt(own * other))


def infonce(sign_nd: Floats, text_nd: Floats) -> MutualInformation:
    """What is known at least of a clip's sentence from its vector, and the other way round.

    log(clips) less VT-Align's loss over all clips at once (van den Oord et al. 2018), the mean of
    both directions. The bound holds for any temperature; the one that makes it tightest here is
    taken, so that the measure does not judge the one a run has learnt. Equal sentences are
    negatives of each other and keep the bound below the ceiling, as they keep the information.
    """
    similarity_nn = sign_nd.astype(np.float64) @ text_nd.T
    scale = np.exp(peak(lambda x: _advantage(similarity_nn, np.exp(x)).mean(), *_SCALES))
    nats_n = _advantage(similarity_nn, scale)
    return MutualInformation(
        nats=max(0.0, float(nats_n.mean())),
        error=float(nats_n.std() / np.sqrt(len(nats_n))),
        ceiling=float(np.log(len(nats_n))),
        temperature=float(1 / scale),
    )


def peak(value: Callable[[float], float], low: float, high: float, steps: int = 18) -> float:
    """Where a function with one maximum in an interval has it, by golden section."""
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(steps):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = value(right)
    return float((low + high) / 2)


def log_sum_exp(values: Floats, axis: int) -> NDArray[np.float64]:
    """log(sum(exp(values))) along an axis, without overflow."""
    top = values.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis))


_NOTHING = 1e-18
"""HSIC of vectors that differ by rounding alone."""

_SCALES = (np.log(1e-2), np.log(1e3))
"""Log of the softmax's inverse temperatures that are tried."""


def _advantage(similarity_nn: Floats, scale: float) -> NDArray[np.float64]:
    """(n,) nats by which each pair's likelihood beats chance, the mean of both directions."""
    logits = scale * similarity_nn
    chosen = log_sum_exp(logits, 0) + log_sum_exp(logits, 1)
    return np.asarray(np.log(len(logits)) + np.diagonal(logits) - chosen / 2)


def _gram(vectors_nd: Floats) -> NDArray[np.float64]:
    """(n, n) inner products of the centred vectors, the diagonal left out."""
    centred = vectors_nd - vectors_nd.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0)
    return np.asarray(gram)


def _hsic(one_nn: NDArray[np.float64], other_nn: NDArray[np.float64]) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion; diagonals are zero."""
    n = len(one_nn)
    rows, others = one_nn.sum(axis=0), other_nn.sum(axis=0)
    pairs = (one_nn * other_nn).sum()
    means = rows.sum() * others.sum() / ((n - 1) * (n - 2))
    return float((pairs + means - 2 * rows @ others / (n - 2)) / (n * (n - 3)))
