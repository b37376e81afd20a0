"""A corpus of random rows whose words can be told apart, and a pipeline small enough for tests.

Run as a program it trains into a folder and kills itself where it is told to:
``python -m tests.support.toy OUT STAGE STEP``.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.train import MemoryFeatures, train
from tests import support

GOLDEN = support.GOLDEN / "translator"
WORDS = ["regen", "schnee", "sonne", "heute", "nacht", "norden"]
COUNTS = {"train": 16, "dev": 5, "test": 6}
SHORT = {
    # Two states to resume from and a scoring of dev inside each stage, and no more.
    "align": {"steps": 21, "batch": 4, "lr": 1e-3, "center": True},
    "translate": {"steps": 21, "batch": 4, "lr": 1e-3, "eval_every": 11},
    "decode": {"beams": 2, "max_tokens": 6},
}
QUIET = {
    # Nothing is left to chance, and no figure depends on how a batch is padded.
    "adapter": {"width": 16, "scale": "embeddings", "norm": "masked"},
    "llm": {"weights": "llm", "prompt": "{language}", "tuning": {"r": 4, "dropout": 0.0}},
    "align": {"steps": 5, "batch": 8, "lr": 1e-5, "center": True},
    "translate": {"steps": 5, "batch": 8, "lr": 1e-5, "eval_every": 5},
}


def pipeline(**changes) -> Pipeline:
    plain = {
        "name": "toy",
        "question": "does it train at all?",
        "corpus": "toy",
        "spec": "toy",
        "text": {"language": "German"},
        "adapter": {"width": 16, "scale": "embeddings", "dropout": 0.1},
        "llm": {"weights": "llm", "prompt": "{language}", "tuning": {"r": 4}},
        "align": {"steps": 20, "batch": 4, "lr": 1e-3, "center": True},
        "translate": {"steps": 40, "batch": 4, "lr": 1e-3, "eval_every": 15},
        "decode": {"beams": 2, "max_tokens": 12, "batch": 2},
        "log": [],
    }
    return Pipeline.model_validate(plain | changes)


def corpus(counts=COUNTS, failed=()):
    """Manifest and stores; every word is a direction, repeated for a few rows with noise."""
    chance = np.random.default_rng(0)
    vectors = {word: chance.normal(size=8) for word in WORDS}
    clips, spatial, motion = [], {}, {}
    for split, count in counts.items():
        for number in range(count):
            words = chance.choice(WORDS, size=4, replace=False).tolist()
            clip = f"{split}/{number}"
            clips.append(
                Clip(
                    id=clip,
                    split=split,
                    source=f"{clip}.mp4",
                    text=" ".join(words),
                    language="German",
                    signer=f"{split}-{number % 2}",
                    extra={},
                )
            )
            rows = np.repeat([vectors[word] for word in words], 10 + number % 3, axis=0)
            rows = (rows + chance.normal(size=rows.shape) * 0.1).astype(np.float16)
            if clip not in failed:
                spatial[clip], motion[clip] = rows, rows[::8, :6].copy()
    reasons = dict.fromkeys(failed, "cannot be decoded")
    stores = {
        "spatial": MemoryFeatures(spatial, reasons),
        "motion": MemoryFeatures(motion, reasons),
    }
    return Manifest.from_clips("toy", clips), stores


def uneven():
    """The corpus with sentences of one to four words."""
    clips = corpus()[0].clips()
    cut = [" ".join(clip.text.split()[: 1 + number % 4]) for number, clip in enumerate(clips)]
    return Manifest.from_clips(
        "toy", [replace(clip, text=text) for clip, text in zip(clips, cut, strict=True)]
    )


def run(out, config=None, *, stores=None, manifest=None, **options):
    made, features = corpus()
    return train(
        config or pipeline(),
        base=GOLDEN,
        manifest=manifest or made,
        stores=stores or features,
        out=out,
        **{"save_seconds": 0.0, "device": "cpu"} | options,
    )


def main(out: str, stage: str, step: str) -> None:
    torch.set_num_threads(1)

    def kill(now: str, done: int, _total: int, _fields) -> None:
        if (now, done) == (stage, int(step)):
            os.kill(os.getpid(), signal.SIGKILL)

    run(Path(out), progress=kill)


if __name__ == "__main__":
    main(*sys.argv[1:])
