"""How fast clips are read: against the formats labs keep features in, and against the limits.

Usage: python benchmarks/read.py [--clips 400] [--rounds 9] [--folder DIR] [--check]

    warm    random clips into a packed batch, page cache as writing left it, CPU time
    loader  whole epochs of a torch DataLoader with 0, 1 and 2 workers, CPU time of all processes
    cold    as warm, with the page cache dropped before each pass, wall time; then once more without
            dropping: what comes by random reads lies in small pages, which cost all readers more
    size    bytes on disk

Every contestant passes over all clips in each round, in a random order of its own; figures are
ratios of medians within one run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from reference.aims import Aim, conclude
from reference.formats import Formats, Reader, same
from reference.material import Material, lengths, size
from reference.turns import measure
from torch.utils.data import DataLoader, Dataset

from spamo_cache.train.dataset import FeatureDataset, PackedBatch

BATCH = 16
OURS, NPY16, NPY32 = "ours, verified", "npy fp16 per clip", "npy fp32 per clip (official)"


def batches(clips: int, chance: random.Random) -> Iterator[list[int]]:
    """One epoch in a random order."""
    order = list(range(clips))
    chance.shuffle(order)
    return (order[at : at + BATCH] for at in range(0, clips, BATCH))


def passing(read: Reader, clips: int, seed: int) -> Callable[[], None]:
    """One pass over all clips, each time in another order."""
    chance = random.Random(seed)

    def once() -> None:
        for batch in batches(clips, chance):
            read(batch)

    return once


# --- warm ---------------------------------------------------------------------------------------


def warm(formats: Formats, rounds: int) -> list[Aim]:
    clips = len(formats.rows)
    readers = formats.readers()
    works = {name: passing(read, clips, seed) for seed, (name, read) in enumerate(readers.items())}
    cpu = {name: statistics.median(t.cpu) for name, t in measure(works, rounds).items()}
    print(f"\nwarm: {'us/clip':>36} {'x npy fp16':>11} {'x official':>11} {'of mmap':>9}")
    limit = cpu["limit: mmap of the ranges"]
    for name, seconds in cpu.items():
        ratios = (cpu[NPY16] / seconds, cpu[NPY32] / seconds, limit / seconds)
        print(
            "  {:<32} {:8.0f} {:11.2f} {:11.2f} {:9.2f}".format(
                name, seconds / clips * 1e6, *ratios
            )
        )
    ours = cpu[OURS]
    return [
        Aim("warm, verified: times the fp16 files", cpu[NPY16] / ours, least=1.5),
        Aim("warm, verified: times the official fp32 files", cpu[NPY32] / ours, least=2),
        Aim("warm, verified: times zarr-python", cpu["zarr-python, same store"] / ours, least=8),
        Aim("warm, verified: of mmap", limit / ours, least=0.5),
    ]


# --- DataLoader ---------------------------------------------------------------------------------


class Files(Dataset[torch.Tensor]):
    """One ``.npy`` per clip, as the official code reads them."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self.folder, self.ids = folder, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.folder / f"{self.ids[number]}.npy"))


def pad(clips: list[torch.Tensor]) -> torch.Tensor:
    """As the official code batches them."""
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)


def busy() -> float:
    """CPU seconds of this process and of the children that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def epochs(
    data: Dataset[object], collate: Callable[..., object], workers: int, count: int
) -> float:
    """CPU seconds of some epochs, the workers' beginning and end among them."""
    start = busy()
    loader = DataLoader(
        data, BATCH, shuffle=True, num_workers=workers, collate_fn=collate,
        persistent_workers=workers > 0,
    )  # fmt: skip
    for _ in range(count):
        for batch in loader:
            torch.as_tensor(
                batch.streams["spatial"].rows if isinstance(batch, PackedBatch) else batch
            )
    del loader
    return busy() - start


def loader(formats: Formats, rounds: int) -> list[Aim]:
    ours = FeatureDataset({"spatial": formats.store})
    half, single = (Files(formats.folder / name, formats.ids) for name in ("npy16", "npy32"))
    print(f"\nDataLoader: {'CPU us/clip':>32} {'ours is faster':>18}")
    aims: list[Aim] = []
    for workers in (0, 1, 2):
        works = {
            OURS: partial(epochs, ours, FeatureDataset.collate, workers, 3),
            NPY16: partial(epochs, half, pad, workers, 3),
            NPY32: partial(epochs, single, pad, workers, 3),
        }
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                taken[name].append(work())
        median = {name: statistics.median(seconds) for name, seconds in taken.items()}
        for name, seconds in median.items():
            each = seconds / 3 / len(formats.ids) * 1e6
            print(f"  {workers} workers, {name:<30} {each:8.0f} {seconds / median[OURS]:15.2f}")
        what = f"DataLoader, {workers} workers: times the "
        aims.append(Aim(what + "fp16 files", median[NPY16] / median[OURS], least=1.3))
        aims.append(Aim(what + "fp32 files", median[NPY32] / median[OURS], least=3))
    return aims


# --- cold ---------------------------------------------------------------------------------------


def drop(folder: Path) -> None:
    """Take the files below a folder out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(folder: Path) -> float:
    """Share of the larger files whose middle is in the page cache."""
    found: list[bool] = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if path.stat().st_size > 1 << 16:
            with path.open("rb") as file:
                try:
                    middle = path.stat().st_size // 2
                    found.append(
                        os.preadv(file.fileno(), [bytearray(1)], middle, os.RWF_NOWAIT) > 0
                    )
                except BlockingIOError:
                    found.append(False)
    return statistics.fmean(found)


def cold(formats: Formats, rounds: int) -> list[Aim]:
    clips, folders = len(formats.rows), {OURS: "store", NPY16: "npy16", NPY32: "npy32"}
    taken: dict[str, list[float]] = {name: [] for name in folders}
    left: list[float] = []
    for turn in range(rounds):
        for name, folder in folders.items():
            once = passing(formats.readers()[name], clips, turn)
            drop(formats.folder / folder)
            left.append(resident(formats.folder / folder))
            start = time.perf_counter()
            once()
            taken[name].append(time.perf_counter() - start)
    print(f"\ncold: {max(left):.0%} of the files were still in memory; wall time")
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in median.items():
        print(f"  {name:<32} {seconds / clips * 1e6:8.0f} us/clip")
    works = {name: passing(formats.readers()[name], clips, 0) for name in folders}
    again = {name: statistics.median(t.cpu) for name, t in measure(works, 3 * rounds).items()}
    print(f"  and warm again, CPU time: {again[NPY16] / again[OURS]:.2f} x npy fp16")
    if max(left) > 0.1:
        print("  the page cache was not dropped on this disk: no aim is set")
        return []
    return [Aim("cold, verified: times serial fp16 files", median[NPY16] / median[OURS], least=1.2)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--check", action="store_true", help="exit 1 where an aim is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        material = Material(lengths(arguments.clips))
        formats = Formats(folder, material, BATCH)
        held, rows = size(Path(str(formats.store.path))), statistics.fmean(material.rows)
        print(f"{arguments.clips} clips of {rows:.0f} rows on average, {held / 1e6:.0f} MB")
        same(formats, material, range(BATCH))
        aims = warm(formats, arguments.rounds)
        aims += loader(formats, min(3, arguments.rounds))
        formats.release()
        aims += cold(formats, min(3, arguments.rounds))
        fraction = held / size(folder / "npy32")
        aims.append(Aim("bytes, of the official fp32 files", fraction, most=0.6))
    missed = conclude(aims)
    sys.exit(missed if arguments.check else 0)


if __name__ == "__main__":
    main()
