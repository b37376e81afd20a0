"""What ``analyze`` measured of a run: ``analysis/<split>.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from spamo_cache.runs.documents import read_document


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualInformation:
    """InfoNCE's lower bound of what clips and sentences tell of each other.

    Attributes:
        nats: the bound.
        error: its standard error over the clips.
        ceiling: the most it could have been, the logarithm of the clips.
        temperature: of the softmax that makes it tightest.
    """

    nats: float
    error: float
    ceiling: float
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstChance:
    """A mean over clips, beside what it is when clips are permuted.

    Attributes:
        value: the mean.
        chance, spread: mean and standard deviation over the permutations.
        p: the share of them that reach the value, itself counted among them.
    """

    value: float
    chance: float
    spread: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WordScores:
    """Visual tokens against the words of glosses or of translations.

    Attributes:
        clips: those that have words.
        words: of a clip, in the mean.
        coverage: share of a clip's words that its tokens hit.
        precision: share of a clip's rows whose token belongs to one of its words.
    """

    clips: int
    words: float
    coverage: AgainstChance
    precision: AgainstChance


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """The token nearest to a sign row, and whether it belongs to the clip's words."""

    token: str
    cosine: float
    gloss: bool
    text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExample:
    """A clip, row by row; ``gloss`` is None where it has no glosses."""

    clip: str
    gloss: Sequence[str] | None
    text: str
    rows: Sequence[TokenRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualTokens:
    """Visual tokens of a split; see :mod:`spamo_cache.analysis.tokens`.

    Attributes:
        candidates: tokens that a row could have looked like.
        how: how they were found and compared, in words.
        permutations: of clips, behind each level of chance.
        rows: of all clips.
        gloss, text: against the words of each; None where no clip has any.
        examples: some clips; none of the weights before training.
    """

    candidates: int
    how: str
    permutations: int
    rows: int
    gloss: WordScores | None
    text: WordScores | None
    examples: Sequence[TokenExample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where clips and their sentences lie in the LLM's embedding space.

    Attributes:
        clips, sentences: clips that were compared, and their distinct sentences.
        recall_at_1, recall_at_5, recall_at_10: share of clips whose own sentence is so near.
        chance_at_1, chance_at_5, chance_at_10: the same by chance.
        median_rank: of the own sentence; 1 is the nearest.
        modality_gap: distance between the means of both, 0..2.
        own_cosine, other_cosine: mean cosine with the own sentence, and with all others.
        cka: debiased linear centred kernel alignment.
        infonce: a bound of their mutual information.
    """

    clips: int
    sentences: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    chance_at_1: float
    chance_at_5: float
    chance_at_10: float
    median_rank: float
    modality_gap: float
    own_cosine: float
    other_cosine: float | None
    cka: float | None
    infonce: MutualInformation


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured with one state of a run's weights."""

    alignment: Alignment
    tokens: VisualTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropy:
    """The entropy of one cloud of points, by kernel density estimation.

    Attributes:
        nats: may be negative, as differential entropy may.
        error: its standard error.
        bias: how much too high it is for a Gaussian of as many points.
        bandwidth: of the kernel, in standard deviations of the points.
        points: how many it was made from.
    """

    nats: float
    error: float
    bias: float
    bandwidth: float
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignEntropy(Entropy):
    """The entropy of clips beside that of their sentences.

    Attributes:
        gap: less the sentences' entropy.
        divergence: Kullback-Leibler, of the clips' density from the sentences'.
    """

    gap: float
    divergence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropies:
    """Entropies in one space; see :mod:`spamo_cache.analysis.entropy`.

    Attributes:
        estimator: how they were estimated, in words.
        dimensions: of the space.
        explained: share of the sentences' variance that lies in it.
        text: of the distinct sentences.
        sign, sign_before: of the clips, after and before training; None for too few clips, or
            clips on a plane.
    """

    estimator: str
    dimensions: int
    explained: float
    text: Entropy
    sign: SignEntropy | None
    sign_before: SignEntropy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What a run has learnt beyond its score.

    Attributes:
        split: whose clips were looked at.
        of, failed: clips of it with features, and without.
        after: with the weights of the run's best translations.
        before: with those that training began with; None where they are not known.
        before_missing: why they are not.
        entropy: of both; None for too few sentences.
    """

    split: str
    of: int
    failed: int
    after: Measured
    before: Measured | None
    before_missing: str | None
    entropy: Entropies | None


_ANALYSIS = TypeAdapter(Analysis)


def analysis_file(run: Path, split: str) -> Path:
    """Where a run keeps the analysis of a split."""
    return run / "analysis" / f"{split}.json"


def read_analysis(run: Path, split: str) -> Analysis | None:
    """The analysis of a split; None where there is none.

    Raises:
        SpamoError: it is something else.
        DamagedError: it is not what was written.
    """
    path = analysis_file(run, split)
    if not path.exists():
        return None
    return read_document(path, _ANALYSIS, "is no analysis", "analyze the run again")
