"""What the second experiment costs: the figure the whole project exists for.

Usage: python benchmarks/repeat.py [--rounds 3] [--size tiny] [--check]

    first        features are extracted, then a translator is trained from them
    second       another translator from the same features
    on the fly   a trainer that keeps no features: every epoch sends all frames through the encoders

Everything runs in turn in one process, in one thread; the encoders of ``tiny`` are so small that
their real cost hardly shows, ``small`` are ViT-S/14 and VideoMAE-S. The trained part is the paper's
adapter and a small T5. Figures are ratios of CPU time; those for 40 epochs, the paper's number, are
extrapolated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from argparse import RawTextHelpFormatter
from functools import lru_cache
from pathlib import Path

import torch
from reference import footage, networks
from reference.aims import Aim, conclude
from reference.llms import write_llm
from reference.turns import measure

from spamo_cache.config import CacheSpec, Pipeline, parse
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import registry
from spamo_cache.extract.extraction import extract
from spamo_cache.store.reader import FeatureStore
from spamo_cache.train import train

EPOCHS = 3
PAPER = 40
"""Epochs in the paper."""
SHARE = {"tiny": 1.0, "small": 0.05}
"""What the second experiment may cost of the first, by the encoders' size."""
FRAMES = [60, 44, 52, 70, 48, 64, 56, 40, 50]
"""Of the clips; the last is dev."""


class Bench:
    """A corpus of PNG folders, encoders, and an experiment on them."""

    def __init__(self, place: Path, size: str) -> None:
        self.place, self.corpus = place, place / "corpus"
        streams = networks.write(place, size)
        self.spec = parse({"name": size, "streams": streams}, CacheSpec, where=size)
        write_llm(place / "llm", "small", "float32")
        sources = footage.png_folders(self.corpus, FRAMES)
        splits = [*["train"] * (len(sources) - 1), "dev"]
        self.manifest = Manifest.from_clips(
            "bench",
            [
                Clip(id=name, split=split, source=name, text=f"es regnet {name}", language="German")
                for name, split in zip(sources, splits, strict=True)
            ],
        )

    def extracted(self, folder: str = "features") -> dict[str, FeatureStore]:
        summary = extract(
            self.manifest,
            self.corpus,
            self.spec,
            self.place,
            store_root=fresh(self.place / folder),
            executor="serial",
            device="cpu",
        )
        return {name: FeatureStore.open(path) for name, path in summary.stores.items()}

    def train(self, stores: dict[str, FeatureStore], seed: int) -> None:
        steps = EPOCHS * (len(FRAMES) - 1) // 4
        pipeline = Pipeline.model_validate(
            {
                "name": "bench",
                "question": "What does the second experiment cost?",
                "corpus": "bench",
                "spec": "bench",
                "text": {"language": "German"},
                "llm": {"weights": "llm"},
                "align": {"steps": 0, "batch": 4, "lr": 1e-4},
                "translate": {"steps": steps, "batch": 4, "lr": 1e-4},
                "decode": {"beams": 1, "max_tokens": 4},
                "log": [],
                "seed": seed,
            }
        )
        out = self.place / "run"
        shutil.rmtree(out, ignore_errors=True)
        train(
            pipeline, base=self.place, manifest=self.manifest, stores=stores, out=out, device="cpu"
        )

    # --- contestants ----------------------------------------------------------------------------

    def first(self) -> None:
        self.train(self.extracted(), seed=0)

    def second(self) -> None:
        """Runs behind :meth:`first`, which left its features."""
        found = (self.place / "features" / "bench").glob("*.zarr")
        self.train({store.stream: store for store in map(FeatureStore.open, found)}, seed=1)

    def on_the_fly(self) -> None:
        # Our own encoding, which is faster than others'; what it writes costs it next to nothing.
        for _ in range(EPOCHS):
            stores = self.extracted("passing")
        self.train(stores, seed=0)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=["tiny", "small"], default="tiny")
    parser.add_argument("--check", action="store_true", help="exit 1 where an aim is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Loading and hashing the weights is the same few seconds for a clip and for a corpus.
    vars(registry)["build"] = lru_cache(registry.build)
    with tempfile.TemporaryDirectory(prefix="spamo-bench-") as folder:
        # Apart from the features: what a root holds is not computed again.
        os.environ["SPAMO_HOME"] = str(Path(folder) / "home")
        bench = Bench(Path(folder), arguments.size)
        contestants = {"first": bench.first, "second": bench.second, "on the fly": bench.on_the_fly}
        times = measure(contestants, arguments.rounds)
    cpu = {name: statistics.median(found.cpu) for name, found in times.items()}
    print(f"\n{arguments.size} encoders, {EPOCHS} epochs: seconds of CPU")
    for name, seconds in cpu.items():
        print(f"  {name:<12} {seconds:8.2f}   {seconds / cpu['second']:6.2f} of the second")
    encoding = cpu["first"] - cpu["second"]
    trained = cpu["second"] / EPOCHS
    whole = PAPER * (encoding + trained) / (PAPER * trained)
    print(f"  over {PAPER} epochs on the fly would cost {whole:.1f} times the second experiment,")
    saved = PAPER * (encoding + trained) / (encoding + PAPER * trained)
    print(f"  and {saved:.1f} times the first;")
    share = PAPER * trained / (encoding + PAPER * trained)
    print(f"  a second experiment of {PAPER} epochs would cost at most {share:.1%} of the first")
    second, most = cpu["second"], SHARE[arguments.size]
    missed = conclude(
        [
            Aim("on the fly / second experiment", cpu["on the fly"] / second, 1),
            Aim("second / first experiment", second / cpu["first"], most=most),
        ]
    )
    sys.exit(missed if arguments.check else 0)


if __name__ == "__main__":
    main()
