"""What training costs: against the official way, with equal layers, data and batches.

Usage: python benchmarks/train.py [--rounds 5]

    steps        translation and warm-up (VT-Align alone), seconds per step: with the paper's
                 adapter, whose arithmetic is most of what a CPU does then, and with one so narrow
                 that everything else shows, as it does on a GPU
    checkpoints  bytes, and the time to write one
    memory       the most that a process of its own holds after the same steps
    large        steps and memory at full size (Flan-T5-XL's shape, bfloat16), and how long the
                 device waits for data; needs a GPU

Everything runs in turn in one process, in one thread; features are as long and wide as
PHOENIX14T's, and too many to be kept in memory. Weights are random. CPU figures are ratios of CPU
time (of wall time in brackets).
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import RawTextHelpFormatter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.aims import Aim, conclude
from reference.llms import write_llm
from reference.material import Material, lengths
from reference.official_train import OfficialTrainer
from reference.turns import Times, measure, ratio

from spamo_cache.config import Pipeline, StageConfig
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.model.translator import Batch, Stage, Translator
from spamo_cache.train.batches import Schedule
from spamo_cache.train.checkpoint import RunFolder
from spamo_cache.train.crew import gather_crew
from spamo_cache.train.loop import Trainer
from spamo_cache.train.parts import Part

WORDS = "am sonntag ist es im norden bewölkt und regnet es zeitweise aber an der küste scheint die"
STEPS = {"small": 4, "large": 30}
"""Steps of a round."""
STAGES: tuple[Stage, Stage] = ("align", "translate")
NAMES = ("translation", "warm-up")


class Timed(Trainer):
    """Our trainer, whose stages can be run again and again."""

    def again(self, stage: Stage) -> None:
        self.place.step = 0
        self._stage(stage, getattr(self.pipeline, stage))

    def _after(self, *_: Any) -> bool:
        return False


class Idle(Timed):
    """The same on one batch that lies on the device: what data never waited for would cost."""

    def _planned(self, stage: Stage, config: StageConfig) -> tuple[Iterator[Part], Iterator[Batch]]:
        parts, batches = super()._planned(stage, config)
        return iter(list(parts)), iter(list(batches))


class Bench:
    """One corpus, one LLM, and both trainers on them."""

    def __init__(
        self, place: Path, shape: str, *, clips: int, batch: int, device: str, width: int = 768
    ) -> None:
        self.place, self.device, self.steps = place, device, STEPS[shape]
        self.dtype = "bfloat16" if shape == "large" else "float32"
        if not (place / "llm").exists():
            write_llm(place / "llm", shape, self.dtype)
        rows = lengths(clips)
        self.spatial = Material(rows)
        self.motion = Material([(n - 16) // 8 + 1 for n in rows], 1024, "motion")
        chance = np.random.default_rng(0)
        self.texts = [" ".join(chance.choice(WORDS.split(), 12)) for _ in rows]
        stage = {"steps": self.steps, "batch": batch, "lr": 1e-4}
        self.pipeline = Pipeline.model_validate(
            {
                "name": "bench",
                "question": "What does a step cost?",
                "corpus": "benchmark",
                "spec": "spamo",
                "text": {"language": "German"},
                "adapter": {"width": width},
                "llm": {"weights": "llm", "dtype": self.dtype},
                "align": stage,
                "translate": stage,
                "log": [],
            }
        )

    @cached_property
    def manifest(self) -> Manifest:
        found = [
            Clip(id=clip, split="train", source=clip, text=text, language="German")
            for clip, text in zip(self.spatial.ids, self.texts, strict=True)
        ]
        # The split that is never decoded here.
        found[-1] = Clip(id=found[-1].id, split="dev", source="-", text="-", language="German")
        return Manifest.from_clips("benchmark", found)

    def ours(self, kind: type[Timed] = Timed, memory: int = 0) -> Timed:
        folder = self.place / "run"
        folder.mkdir(exist_ok=True)
        stores = {m.stream: m.store(self.place / "stores") for m in (self.spatial, self.motion)}
        return kind(
            self.pipeline,
            gather_crew(self.pipeline, self.device),
            RunFolder(folder),
            llm=self.place / "llm",
            manifest=self.manifest,
            stores=stores,
            memory=memory,
        )

    def official(self) -> OfficialTrainer:
        features = self.place / "npy"
        for material in (self.spatial, self.motion):
            if not (folder := features / material.stream).exists():
                folder.mkdir(parents=True)
                for clip, rows in material:
                    np.save(folder / f"{clip}.npy", rows.astype(np.float32))
        torch.manual_seed(0)
        widths = {material.stream: material.width for material in (self.spatial, self.motion)}
        translator = Translator(self.pipeline, widths, self.place / "llm").to(self.device)
        prompt = "Translate the given sentence into German."
        return OfficialTrainer(translator, features, self.spatial.ids, self.texts, prompt)

    def official_steps(self, trainer: OfficialTrainer, stage: Stage) -> None:
        config = getattr(self.pipeline, stage)
        rows = [a + b for a, b in zip(self.spatial.rows, self.motion.rows, strict=True)][:-1]
        plan = Schedule(np.array(rows), config.batch, f"{self.pipeline.seed} {stage}")
        trainer.steps(stage, config, map(plan.__getitem__, range(self.steps)))


# --- sections -------------------------------------------------------------------------------------


def check_equal(bench: Bench, ours: Timed, official: OfficialTrainer) -> None:
    """Both compute the same loss, from the same weights and clips."""
    official.translator.restore(ours.translator.trained())
    ours.translator.eval()
    official.translator.eval()
    numbers = list(range(bench.pipeline.translate.batch))
    with torch.no_grad():
        for stage in ("align", "translate"):
            mine = ours.translator(ours.data.batch(numbers), stage=stage)["loss"]
            torch.testing.assert_close(official.loss(stage, numbers), mine, rtol=1e-4, atol=1e-4)


def show_steps(bench: Bench, rounds: int) -> list[Aim]:
    align, translate, official = bench.ours(), bench.ours(), bench.official()
    translate._attach()
    check_equal(bench, translate, official)
    # What each stage begins with is the same for four steps as for thousands.
    gc.collect()
    gc.freeze()
    times = measure(
        {
            "official translation": lambda: bench.official_steps(official, "translate"),
            "our translation": lambda: translate.again("translate"),
            "official warm-up": lambda: bench.official_steps(official, "align"),
            "our warm-up": lambda: align.again("align"),
        },
        rounds,
    )
    width = bench.pipeline.adapter.width
    print(f"\nadapter of width {width}: seconds of CPU per step (equal losses, checked)")
    for name, found in times.items():
        print(f"  {name:<24} {statistics.median(found.cpu) / bench.steps:8.3f}")
    pairs = {what: (times[f"official {what}"], times[f"our {what}"]) for what in NAMES}
    # The translation is the LLM's arithmetic, the same for both. The warm-up is to be ten times as
    # fast where an LLM's size shows; on a CPU the adapter's arithmetic is most of it.
    leasts = {"translation": 1.0, "warm-up": 10.0}
    steps = [
        told(f"{what}, width {width}: official / ours", *pair, leasts[what])
        for what, pair in pairs.items()
    ]
    return [*steps, *show_checkpoints(bench, translate, official, rounds)]


def show_checkpoints(
    bench: Bench, ours: Timed, official: OfficialTrainer, rounds: int
) -> list[Aim]:
    theirs = bench.place / "official.ckpt"
    contestants = {"official": lambda: official.save(theirs), "ours": ours._keep}
    times = measure(contestants, rounds)
    sizes = [path.stat().st_size for path in (theirs, ours.folder.model)]
    print(f"\ncheckpoints: official {sizes[0] / 1e6:.1f} MB, ours {sizes[1] / 1e6:.1f} MB")
    saving = told("time to save: official / ours", times["official"], times["ours"], 1)
    return [Aim("checkpoint bytes: official / ours", sizes[0] / sizes[1], 1), saving]


def show_memory(arguments: list[str]) -> None:
    """Each in a process of its own."""
    print("\nmost memory of a process, MB")
    for who in ("official", "ours"):
        for stage in ("align", "translate"):
            command = [sys.executable, __file__, *arguments, "--alone", who, stage]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"  {who:<10} {stage:<10} {float(said.split()[-1]):10,.0f}")


def alone(bench: Bench, who: str, stage: Stage) -> None:
    if who == "official":
        bench.official_steps(bench.official(), stage)
    else:
        trainer = bench.ours()
        if stage == "translate":
            trainer._attach()
        trainer.again(stage)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e3)


def show_large(place: Path, rounds: int, shape: str = "large", device: str = "cuda") -> None:
    """Steps per second, memory, and the share of time in which the device waits for data."""
    bench = Bench(place, shape, clips=400, batch=16, device=device)
    contestants: dict[str, Callable[[], Timed | OfficialTrainer]] = {
        "official": bench.official,
        "ours": bench.ours,
        "at hand": lambda: bench.ours(Idle),
    }
    seconds: dict[tuple[str, Stage], float] = {}
    for name, make in contestants.items():
        trainer = make()
        for stage in STAGES:
            found, gigabytes = timed(bench, trainer, stage, rounds)
            seconds[name, stage] = found
            rate = bench.steps / found
            print(f"{shape}, {name:<8} {stage:<10} {rate:8.2f} steps/s {gigabytes:6.1f} GB")
        # Before the next one: only one LLM lies on the device at a time.
        del trainer
        gc.unfreeze()
        gc.collect()
        torch.cuda.empty_cache()
    for stage in STAGES:
        ours = seconds["ours", stage]
        print(Aim(f"{stage}: official / ours", seconds["official", stage] / ours, 1))
        waits = 1 - seconds["at hand", stage] / ours
        print(Aim(f"{stage}: share of time the device waits for data", waits, most=0.02))


def timed(
    bench: Bench, trainer: Timed | OfficialTrainer, stage: Stage, rounds: int
) -> tuple[float, float]:
    """Median seconds of a round, and the most memory of the device, GB."""
    gpu = bench.device == "cuda"
    if isinstance(trainer, Timed) and stage == "translate":
        trainer._attach()
    gc.freeze()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        if isinstance(trainer, Timed):
            trainer.again(stage)
        else:
            bench.official_steps(trainer, stage)
        if gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:]), torch.cuda.max_memory_allocated() / 1e9 if gpu else 0.0


def told(what: str, slow: Times, fast: Times, least: float) -> Aim:
    clock = ratio(slow.wall, fast.wall)
    return Aim(f"{what} (by the clock {clock:.2f})", ratio(slow.cpu, fast.cpu), least)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spamo-bench-") as scratch:
        place = arguments.folder or Path(scratch)
        if torch.cuda.is_available() and not arguments.alone:
            show_large(place / "large", arguments.rounds)
        elif not arguments.alone:
            print("large: no GPU at hand, left out")
        torch.set_num_threads(1)
        benches = [
            Bench(place / "small", "small", clips=64, batch=8, device="cpu", width=width)
            for width in (768, 64)
        ]
        if arguments.alone:
            alone(benches[0], *arguments.alone)
            return 0
        aims = [aim for bench in benches for aim in show_steps(bench, arguments.rounds)]
        show_memory(["--folder", str(place)])
        return conclude(aims)


if __name__ == "__main__":
    sys.exit(main())
