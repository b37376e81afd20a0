"""Attribution of a clip's translation to its moments, as a run keeps it.

analysis/attribution/<clip>.json      a :class:`ClipAttribution`
analysis/attribution/<clip>-<n>.jpg   the frames that it names
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from spamo_cache.errors import DamagedError
from spamo_cache.runs.documents import read_document

FOLDER = Path("analysis") / "attribution"
_REMEDY = "analyze the clip again"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLikelihoods:
    """Log-likelihoods of a translation, in nats.

    Attributes:
        clip, baseline: given the clip, and given its baseline.
        attributed: what was attributed to all rows together.
        error: how far that misses the difference of the two, as a share of it.
    """

    clip: float
    baseline: float
    attributed: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAttribution:
    """What one stream of a clip gave to the translation.

    Attributes:
        share: of all absolute attribution.
        rows: signed nats of each row.
        first, last: moments that each row stands for, both included.
        curve: signed nats of each moment.
    """

    share: float
    rows: Sequence[float]
    first: Sequence[int]
    last: Sequence[int]
    curve: Sequence[FiniteFloat]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordAttribution:
    """What all streams gave to one word: ``nats`` in all, and of each moment."""

    word: str
    nats: float
    curve: Sequence[FiniteFloat]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A frame of a clip, numbered from 0, and its JPEG beside the document."""

    at: int
    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAttribution:
    """How far each moment of a clip made its translation likelier.

    Attributes:
        method, baseline: how it was attributed, and against what, in words.
        steps: points between the baseline and the clip.
        unit: what a moment is: ``frame``, or ``row`` where the stores do not know the frames.
        length: moments of the clip.
        streams: by name.
        words: of the translation, all streams together.
        shots: some frames of the clip.
        without: why there are none.
    """

    clip: str
    split: str
    reference: str
    hypothesis: str
    method: str
    baseline: str
    steps: int
    nats: LogLikelihoods
    unit: str
    length: int
    streams: Mapping[str, StreamAttribution]
    words: Sequence[WordAttribution]
    shots: Sequence[Shot]
    without: str | None

    def __post_init__(self) -> None:
        curves = {f"streams.{name}.curve": one.curve for name, one in self.streams.items()}
        curves |= {f"words.{n}.curve": one.curve for n, one in enumerate(self.words)}
        for key, curve in curves.items():
            if not curve or len(curve) != self.length:
                raise ValueError(f"{key} has {len(curve)} values over {self.length} moments")


_ATTRIBUTION = TypeAdapter(ClipAttribution)


def read_attribution(path: Path) -> ClipAttribution:
    """The attribution in a file of ``<run>/analysis/attribution``.

    Raises:
        SpamoError: it is missing, or something else.
        DamagedError: it is not what was written.
    """
    return read_document(path, _ATTRIBUTION, "is no attribution", _REMEDY)


def read_shot(folder: Path, shot: Shot) -> bytes | None:
    """The JPEG of a frame; None where it is gone.

    Raises:
        DamagedError: it is not the picture that was kept.
    """
    # The name alone is taken: a file elsewhere is none of the reader's business.
    path = folder / Path(shot.file).name
    if not path.is_file():
        return None
    jpeg = path.read_bytes()
    if hashlib.sha256(jpeg).hexdigest() != shot.sha256:
        raise DamagedError("is not the picture that was kept", where=path, remedy=_REMEDY)
    return jpeg
