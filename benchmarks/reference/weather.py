"""The bundled corpus as folders of PNG, for machines that have no video library."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.signed_weather.animate import perform
from spamo_cache.datasets.signed_weather.grammar import ClipPlan, clips
from spamo_cache.datasets.signed_weather.lexicon import LEXICON
from spamo_cache.datasets.signed_weather.signer import Signer


def draw(root: Path, size: int, name: str, *, limit: int | None = None) -> Path:
    """Draw ``size`` clips below ``root``; returns the manifest of a corpus called ``name``.

    Args:
        limit: clips of each split, at most.
    """
    by_split: defaultdict[str, list[ClipPlan]] = defaultdict(list)
    for plan in clips(size):
        by_split[plan.split].append(plan)
    plans = [plan for some in by_split.values() for plan in some[:limit]]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_draw, root), plans, chunksize=4))
    manifest = root / "manifest.parquet"
    Manifest.from_clips(name, map(_clip, plans)).write(manifest)
    return manifest


def _draw(root: Path, plan: ClipPlan) -> None:
    """As the corpus's own maker films it, from the same random numbers."""
    signer, chance = Signer.from_seed(plan.signer), np.random.default_rng(plan.seed)
    signs = [LEXICON[gloss] for gloss in plan.utterance.glosses]
    (root / plan.id).mkdir(parents=True)
    for k, beat in enumerate(perform(signs, signer, chance)):
        picture = Image.fromarray(signer.draw(beat.pose, chance))
        picture.save(root / plan.id / f"{k:04}.png", compress_level=1)


def _clip(plan: ClipPlan) -> Clip:
    text = plan.utterance.german
    return Clip(id=plan.id, split=plan.split, source=plan.id, text=text, language="German")
