"""How two sets of paired vectors lie to one another; pure functions of NumPy arrays.

``sign_nd`` holds one unit vector per clip, ``text_md`` one per distinct sentence, and ``own_n``
says which sentence is each clip's own. Equal sentences are one sentence: no ranking could tell
them apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


def distinct(texts: list[str]) -> tuple[list[int], Ints]:
    """Positions of the distinct sentences, and for each sentence its place among them."""
    first: dict[str, int] = {}
    own = [first.setdefault(text, len(first)) for text in texts]
    kept: dict[str, int] = {}
    for position, text in enumerate(texts):
        kept.setdefault(text, position)
    return list(kept.values()), np.array(own, dtype=np.int64)
