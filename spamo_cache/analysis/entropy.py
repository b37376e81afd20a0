"""Entropy of the clips' vectors against that of their sentences', by kernel density estimation.

**Space.** Pooled unit vectors (see :mod:`spamo_cache.analysis.alignment`) are projected on the
first four principal directions of the split's distinct sentences and divided by the sentences'
standard deviation there. The sentences decide the space alone: it is the same before and after
training and for all runs with one language model, and a nat is a nat in all of them.

**Estimator.** A Gaussian kernel with the covariance of the sample itself, times a bandwidth
squared, so that the estimate follows any linear map; resubstitution, leaving each point out:
minus the mean log density of a point under the others. In the mean that is no less than the
entropy, at any bandwidth; hence the bandwidth that makes it least (leave-one-out maximum
likelihood) is the best one.

**Error.** ``error`` is the standard error of the mean log density. ``bias`` is how much too high
the estimate is for a Gaussian sample of as many points in as many dimensions, measured. It is not
subtracted; both grow with the dimensions and shrink with the points. Tested
(``tests/analysis/test_entropy.py``) on 500 points of Gaussians in 1, 2 and 4 dimensions: within
0.05, 0.10 and 0.25 nats beyond three standard errors; on uniform ones in 1 and 2: 0.10 and 0.20.

**Not the paper's number.** SpaMo prints KDE entropies (0.12; GFSLT-VLP 0.32) without space,
bandwidth or unit. Differential entropy depends on all of them: ours compare with one another, not
with those. Nor is less better here: vectors at one point have the least entropy and tell nothing.
What VT-Align should do is to bring ``sign`` to ``text``: the gap and the divergence to zero.
That compares clouds, not pairs: training on shuffled features brings them nearer, too. Whether
a clip lies at its own sentence is told by recall, CKA and the bound of mutual information.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spamo_cache.analysis.measures import Floats, log_sum_exp, peak
from spamo_cache.runs.analyses import Entropies, Entropy, SignEntropy

DIMENSIONS = 4
POINTS = 1024
"""More are sampled evenly: all pairs are looked at."""
ESTIMATOR = (
    f"leave-one-out KDE, Gaussian kernel of the sample's covariance, bandwidth by leave-one-out "
    f"maximum likelihood, on the first {DIMENSIONS} principal directions of the sentences, in "
    f"units of the sentences' standard deviation; not comparable with the paper's 0.12 and 0.32"
)

_FEWEST = 4 * DIMENSIONS
_BANDWIDTHS = (np.log(0.02), np.log(3.0))
_SAMPLES = 4
_FLAT = 1e-10
"""Ratio of least to greatest variance below which points lie on a plane, but for rounding."""


@dataclass(frozen=True, slots=True)
class Density:
    """A kernel density estimate.

    Attributes:
        white_nd: the points, their covariance made the identity.
        mean: theirs before that.
        whiten_dd: what made it so.
        log_volume: nats by which whitening has shrunk the space.
        bandwidth: of the kernel, in standard deviations of the points.
        loo_n: each point's log density under the others.
    """

    white_nd: NDArray[np.float64]
    mean: NDArray[np.float64]
    whiten_dd: NDArray[np.float64]
    log_volume: float
    bandwidth: float
    loo_n: NDArray[np.float64]

    @property
    def entropy(self) -> float:
        """Nats; may be negative, as differential entropy may."""
        return float(-self.loo_n.mean())

    @property
    def points(self) -> int:
        """How many points it was made from."""
        return len(self.loo_n)

    @property
    def error(self) -> float:
        """Standard error of the entropy, nats."""
        return float(self.loo_n.std(ddof=1) / np.sqrt(len(self.loo_n)))

    @property
    def bias(self) -> float:
        """What the entropy of a Gaussian would be too high by with as many points, nats."""
        return excess(*self.white_nd.shape)

    def surprise(self, points_md: Floats) -> float:
        """Mean of minus the log density at other points: their cross entropy, nats.

        Far from all kernels it is half the squared distance in bandwidths, and finite.
        """
        white = (points_md - self.mean) @ self.whiten_dd
        log = _log_density(_distances(white, self.white_nd), self.bandwidth, white.shape[1])
        return float(self.log_volume - log.mean())


def density(points_nd: Floats) -> Density | None:
    """The density that points were drawn from; None for too few points, or points on a plane."""
    points = _even(np.asarray(points_nd, dtype=np.float64))
    n, d = points.shape
    if n < _FEWEST:
        return None
    mean = points.mean(axis=0)
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(points.T)))
    if variances[0] <= _FLAT * max(variances[-1], _FLAT):
        return None
    whiten = directions / np.sqrt(variances)
    white = (points - mean) @ whiten
    squared = _distances(white, white)
    np.fill_diagonal(squared, np.inf)
    widths = np.exp(peak(lambda x: _log_density(squared, np.exp(x), d).mean(), *_BANDWIDTHS))
    volume = float(np.log(variances).sum() / 2)
    # A point left out leaves one kernel less.
    loo = _log_density(squared, widths, d) + np.log(n / (n - 1)) - volume
    return Density(white, mean, whiten, volume, float(widths), loo)


@lru_cache
def excess(n: int, d: int) -> float:
    """Nats by which the estimate is too high for ``n`` points of a Gaussian in ``d`` dimensions.

    Against the mean log density of the very points drawn, so that chance is small.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_SAMPLES):
        points = rng.normal(size=(n, d))
        true = (points**2).sum(axis=1).mean() / 2 + d / 2 * np.log(2 * np.pi)
        made = density(points)
        found.append(0.0 if made is None else made.entropy - true)
    return float(np.mean(found))


def against(text_md: Floats, sign_nd: Floats, before_nd: Floats | None = None) -> Entropies | None:
    """Entropies of distinct sentences, of clips, and of clips before training, in one space.

    Returns:
        None if there are too few sentences.
    """
    mean = text_md.mean(axis=0, dtype=np.float64)
    _, sizes, directions = np.linalg.svd(text_md - mean, full_matrices=False)
    axes = directions[:DIMENSIONS].T * np.sqrt(len(text_md)) / np.maximum(sizes[:DIMENSIONS], 1e-12)
    text = density((text_md - mean) @ axes)
    if text is None:
        return None
    return Entropies(
        estimator=ESTIMATOR,
        dimensions=DIMENSIONS,
        explained=float((sizes[:DIMENSIONS] ** 2).sum() / (sizes**2).sum()),
        text=_entropy(text),
        sign=_beside(text, (sign_nd - mean) @ axes),
        sign_before=None if before_nd is None else _beside(text, (before_nd - mean) @ axes),
    )


def _beside(text: Density, points_nd: NDArray[np.float64]) -> SignEntropy | None:
    sign = density(points_nd)
    if sign is None:
        return None
    return SignEntropy(
        **asdict(_entropy(sign)),
        gap=sign.entropy - text.entropy,
        divergence=text.surprise(points_nd) - sign.entropy,
    )


def _entropy(one: Density) -> Entropy:
    return Entropy(
        nats=one.entropy,
        error=one.error,
        bias=one.bias,
        bandwidth=one.bandwidth,
        points=one.points,
    )


def _log_density(squared_mn: Floats, bandwidth: float, d: int) -> NDArray[np.float64]:
    """(m,) log of the mean kernel at squared distances ``squared_mn``."""
    exponents = -squared_mn / (2 * bandwidth**2)
    kernels = log_sum_exp(exponents, 1) - np.log(squared_mn.shape[1])
    return np.asarray(kernels - d * (np.log(bandwidth) + np.log(2 * np.pi) / 2))


def _distances(one_md: Floats, other_nd: Floats) -> NDArray[np.float64]:
    """(m, n) squared Euclidean distances."""
    squares = (one_md**2).sum(axis=1)[:, None] + (other_nd**2).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * one_md @ other_nd.T, 0))


def _even(points_nd: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most :data:`POINTS` of the points, evenly."""
    chosen = np.linspace(0, len(points_nd) - 1, min(len(points_nd), POINTS)).round().astype(int)
    return np.asarray(points_nd[chosen])
