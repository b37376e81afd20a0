"""A share of the training clips: what a corpus of that size would have been."""

from __future__ import annotations

import hashlib

from spamo_cache.datasets.manifest import Manifest


def sample(manifest: Manifest, share: float, seed: int) -> Manifest:
    """The manifest with ``share`` of its training clips, at least one; other splits stay whole.

    Clips are ranked by the hash of ``seed`` and their id: a sample is spread over the corpus, is
    the same on every machine, and contains every smaller one of the same seed.
    """
    ids, splits = manifest.table["id"].to_pylist(), manifest.table["split"].to_pylist()
    training = {clip for clip, split in zip(ids, splits, strict=True) if split == "train"}
    count = max(1, round(share * len(training)))
    left_out = set(sorted(training, key=lambda clip: _rank(clip, seed))[count:])
    return manifest.keep([clip not in left_out for clip in ids]) if left_out else manifest


def _rank(clip: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {clip}".encode("utf-8", "surrogatepass")).digest()
