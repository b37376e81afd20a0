"""What training costs: against the official way, with equal layers, data and batches.

Usage: python benchmarks/train.py [--rounds 5] [--only steps ...] [--check]

    steps        translation and warm-up (VT-Align alone), seconds per step: with the paper's
                 adapter, whose arithmetic is most of what a CPU does, and with one so narrow that
                 the rest of a step shows
    set-up       from nothing to the first step of a process of its own, and the most memory it has
                 held by then: with an LLM of Flan-T5-base's shape, float32 on disk and bfloat16 in
                 memory, as the shipped pipelines have theirs
    checkpoints  bytes, and the time to write one, with that LLM
    large        steps and memory at full size (Flan-T5-XL's shape, bfloat16), and how long the
                 device waits for data; needs a GPU
    memory       most memory of a step of translation with the longest clips, with and without
                 checkpointing, of Flan-T5-base's and -XL's shape: reckoned, and measured by a GPU

Everything runs in turn, in one thread; features are as long and wide as PHOENIX14T's, and too many
to be kept in memory. Weights are random. CPU figures are ratios of CPU time (of wall time in
brackets). The LLM is never run in a warm-up, by neither: what is saved there is to load it and to
build its input. On a CPU that is little beside the adapter's arithmetic, and files are mapped; that
a warm-up step is ten times as fast is an aim for a GPU at full size.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import RawTextHelpFormatter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from reference.aims import Aim, conclude
from reference.memory import BATCH, CLIPS, memory
from reference.official_train import OfficialTrainer
from reference.training import STAGES, Bench, Idle, Timed
from reference.turns import Times, measure, ratio

from spamo_cache.model.translator import TrainPhase

NAMES = ("translation", "warm-up")


class ReachedError(Exception):
    """The first step is done."""


# --- sections -------------------------------------------------------------------------------------


def check_equal(bench: Bench, ours: Timed, official: OfficialTrainer) -> None:
    """Both compute the same loss, from the same weights and clips."""
    official.translator.restore(ours.translator.trained())
    ours.translator.eval()
    official.translator.eval()
    numbers = list(range(bench.pipeline.translate.batch))
    with torch.no_grad():
        for stage in ("align", "translate"):
            mine = ours.translator(ours.data.batch(numbers), phase=stage)["loss"]
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
    # Both do the same arithmetic: no slower, within what a shared machine lets one see.
    return [
        told(f"{what}, width {width}: official / ours", *pair, 0.95) for what, pair in pairs.items()
    ]


def show_checkpoints(bench: Bench, rounds: int) -> list[Aim]:
    ours, official = bench.ours(), bench.official()
    ours._attach()
    theirs = bench.place / "official.ckpt"
    contestants = {"official": lambda: official.save(theirs), "ours": ours._keep}
    times = measure(contestants, rounds)
    sizes = [path.stat().st_size for path in (theirs, ours.folder.model)]
    print(f"\ncheckpoints: official {sizes[0] / 1e6:.1f} MB, ours {sizes[1] / 1e6:.1f} MB")
    saving = told("time to save: official / ours", times["official"], times["ours"], 5)
    return [Aim("checkpoint bytes: official / ours", sizes[0] / sizes[1], 10), saving]


def show_setup(bench: Bench, rounds: int) -> list[Aim]:
    """Each in a process of its own."""
    bench.write()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for stage in STAGES:
            for who in ("official", "ours"):
                found.setdefault((who, stage), []).append(alone(bench, who, stage))
    print("\nfrom nothing to the first step, with Flan-T5-base's shape: seconds of CPU, MB")
    middle = {key: {name: statistics.median(one[name] for one in each) for name in each[0]}
              for key, each in found.items()}  # fmt: skip
    for (who, what), one in middle.items():
        print(f"  {who:<10} {what:<10} {one['cpu']:8.2f} {one['peak']:10,.0f}")
    official, ours = (middle[who, "align"] for who in ("official", "ours"))
    return [
        Aim("set-up of the warm-up: official / ours", official["cpu"] / ours["cpu"], 1),
        Aim("most memory of the warm-up: official / ours", official["peak"] / ours["peak"], 2),
    ]


def alone(bench: Bench, who: str, stage: TrainPhase) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(bench.place.parent)]
    command += ["--alone", who, stage]
    told: dict[str, float] = json.loads(
        subprocess.check_output(command, text=True).splitlines()[-1]
    )
    return told


def first_step(bench: Bench, who: str, stage: TrainPhase) -> None:
    """What such a process does."""

    def reached(*_: object) -> None:
        raise ReachedError

    try:
        if who == "official":
            bench.official_steps(bench.official(), stage)
        else:
            bench.train(stage, reached)
    except ReachedError:
        pass
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    print(json.dumps({"cpu": time.process_time(), "peak": peak}))


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a contestant trains in a phase."""

    stage: TrainPhase
    who: str
    """``ours``, ``official``, or ``at hand``: ours with batches that lie on the device."""
    rate: float
    """Steps per second."""
    peak_bytes: int
    """Of the device's memory."""
    waiting: float | None
    """Share of ours in which the device had no batch."""


def compare(
    place: Path, *, device: str, size: str, seconds: float, batch: int = 16, clips: int = 400
) -> Iterator[Pace]:
    """Both phases, trained by our ways and by the release's, as they are measured; ours first.

    Args:
        place: folder for weights and features, which stay there; at full size 7 GB.
        device: ``cuda`` or ``cpu``.
        size: ``small``, ``base`` (Flan-T5-base) or ``large`` (Flan-T5-XL).
        seconds: about as long as steps are timed; making, loading and warming up come on top.
    """
    bench = Bench(place, size, clips=clips, batch=batch, device=device)
    contestants: dict[str, Callable[[], Timed | OfficialTrainer]] = {
        "ours": bench.ours,
        "official": bench.official,
        "at hand": lambda: bench.ours(Idle),
    }
    share = seconds / len(contestants) / len(STAGES)
    for name, make in contestants.items():
        trainer = make()
        for stage in STAGES:
            rate, peak = timed(bench, trainer, stage, share)
            waiting = trainer.timer.waiting_share if isinstance(trainer, Timed) else None
            yield Pace(stage, name, rate, peak, waiting if name == "ours" else None)
        # Before the next one: only one LLM lies on the device at a time.
        del trainer
        _forget(device)


def figures(paces: Iterable[Pace]) -> Iterator[Aim]:
    """What comes of each, beside its goal."""
    ours: dict[TrainPhase, float] = {}
    least = {"align": 10.0, "translate": 1.5}
    for pace in paces:
        yield Aim(f"{pace.stage}, {pace.who}: steps/s", pace.rate)
        yield Aim(f"{pace.stage}, {pace.who}: GB", pace.peak_bytes / 1e9)
        if pace.who == "ours":
            ours[pace.stage] = pace.rate
            share = pace.waiting or 0.0
            yield Aim(f"{pace.stage}: share of time without a batch", share, most=0.02)
        if pace.who == "official":
            times = ours[pace.stage] / pace.rate
            yield Aim(f"{pace.stage}: ours / official", times, least[pace.stage])


def timed(
    bench: Bench, trainer: Timed | OfficialTrainer, stage: TrainPhase, seconds: float
) -> tuple[float, int]:
    """Steps per second in the median of rounds, and the most memory of the device, in bytes."""
    gpu = bench.device == "cuda"
    if isinstance(trainer, Timed) and stage == "translate":
        trainer._attach()
    gc.freeze()
    found: list[float] = []
    while not found or sum(found[1:]) < seconds:
        began = time.perf_counter()
        if isinstance(trainer, Timed):
            trainer.again(stage)
        else:
            bench.official_steps(trainer, stage)
        if gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
        if gpu and len(found) == 1:
            torch.cuda.reset_peak_memory_stats()
    peak = torch.cuda.max_memory_allocated() if gpu else 0
    return bench.steps_of(trainer, stage) / statistics.median(found[1:]), peak


def _forget(device: str) -> None:
    gc.unfreeze()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def show_large(place: Path, seconds: float) -> list[Aim]:
    """Steps per second, memory, and the share of time in which the device waits for data."""
    if not torch.cuda.is_available():
        print("large: no GPU at hand, left out")
        return []
    aims = []
    for aim in figures(compare(place, device="cuda", size="large", seconds=seconds)):
        print(aim, flush=True)
        aims.append(aim)
    return aims


def show_memory(device: str) -> None:
    """A step of LoRA in bfloat16 at batch 16: reckoned from shapes and, on a GPU, measured."""
    print(f"\nmost memory of a step of translation, batch {BATCH}, GB (rows read, tokens said)")
    for size in ("base", "large"):
        for clips, (rows, tokens) in CLIPS.items():
            for checkpointing in (False, True):
                found = memory(device, size, rows, tokens, checkpointing=checkpointing)
                figures = " ".join(f"{name} {value / 1e9:6.2f}" for name, value in found.items())
                how = "checkpointing" if checkpointing else ""
                print(f"  {size:<6} {clips:<8} ({rows}, {tokens})  {how:<14} {figures}")


def told(what: str, slow: Times, fast: Times, least: float) -> Aim:
    clock = ratio(slow.wall, fast.wall)
    return Aim(f"{what} (by the clock {clock:.2f})", ratio(slow.cpu, fast.cpu), least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120, help="timed of the section large")
    sections = ["large", "memory", "steps", "set-up", "checkpoints"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 where an aim is missed")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="spamo-bench-") as scratch:
        place = arguments.folder or Path(scratch)
        base = Bench(place / "base", "base", clips=64, batch=8, device="cpu")
        if arguments.alone:
            first_step(base, *arguments.alone)
            return
        aims: list[Aim] = []
        if "large" in arguments.only:
            aims += show_large(place / "large", arguments.seconds)
        if "memory" in arguments.only:
            show_memory("cuda" if torch.cuda.is_available() else "cpu")
        if "steps" in arguments.only:
            for width in (768, 64):
                bench = Bench(
                    place / "small", "small", clips=64, batch=8, device="cpu", width=width
                )
                aims += show_steps(bench, arguments.rounds)
        if "set-up" in arguments.only:
            aims += show_setup(base, arguments.rounds)
        if "checkpoints" in arguments.only:
            aims += show_checkpoints(base, arguments.rounds)
    missed = conclude(aims)
    sys.exit(missed if arguments.check else 0)


if __name__ == "__main__":
    main()
