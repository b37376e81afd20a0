"""What extraction costs: against the official way, and against the limit.

Usage: python benchmarks/extract.py [--rounds 5] [--only input tiny small large]

    input   decoding and preparing frames for both encoders, without the networks
    tiny    both streams from PNG folders, by networks so small that everything else shows
    small   the same by ViT-S/14 and VideoMAE-S: as large as a CPU bears
    large   the same by ViT-L/14 and VideoMAE-L in float16, and the limit compiled; needs a GPU

Everything runs in turn in one process; on a CPU on one core, in one thread. Weights are random and
loaded before the clock starts. CPU figures are ratios of CPU time (of wall time in brackets).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from argparse import RawTextHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal

import torch
from reference import footage, networks
from reference.aims import Aim
from reference.official import Official
from reference.turns import Times, measure, ratio
from torch.profiler import ProfilerActivity, profile

from spamo_cache import video
from spamo_cache.config import CacheSpec, parse
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder, stack_windows, window
from spamo_cache.encoders.preprocess import Normalise, prepare
from spamo_cache.extract.decoding import ClipTask, DecodeConfig, Decoders
from spamo_cache.extract.device import open_device
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.regions import View
from spamo_cache.extract.summary import Summary

BIT_RATES = (250_000, 2_000_000, 9_000_000)
CLIPS = {"input": [75, 43, 110], "tiny": [75, 43, 110, 60], "small": [24]}
"""Frames of the clips of each section."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Bench:
    """One corpus and one pair of networks, and the contestants on them."""

    def __init__(self, place: Path, size: str, sources: Sequence[str], device: str) -> None:
        self.place, self.device = place, device
        self.corpus = place / "corpus"
        streams = networks.write(place, size)
        self.spec = parse({"name": size, "streams": streams}, CacheSpec, where=size)
        clips = [
            Clip(id=s, split="train", source=s, text="-", language="-", extra={}) for s in sources
        ]
        self.manifest = Manifest.from_clips("bench", clips)
        self.probes = video.probe_all(self.corpus, clips)
        self.encoders = {
            # Asked for as an extraction asks: `load_once` then gives both the same.
            name: registry.build(stream, place, self.spec.compute, device)
            for name, stream in self.spec.streams.items()
        }
        self.sources = [self.corpus / source for source in sources]

    @cached_property
    def official(self) -> Official:
        return Official(self.place, self.device)

    # --- the input side -------------------------------------------------------------------------

    def official_input(self) -> None:
        for source in self.sources:
            for batches in (self.official.spatial_input, self.official.motion_input):
                for _ in batches(source):
                    pass

    def our_input(self, *, normalise: bool = False) -> None:
        """What the device is given; ``normalise``, which is the device's work, on top."""
        encoders = list(self.encoders.values())
        clips = [
            ClipTask(clip.id, clip.source, None, None, None, probe)
            for clip, probe in zip(self.manifest.clips(), self.probes, strict=True)
        ]
        views = {View(encoder.preprocess.resize_spec) for encoder in encoders}
        config = DecodeConfig(root=self.corpus, resize=self.spec.frames.resize, decoders=1)
        decoders = Decoders(config)
        for _, clip in decoders.ahead(clips, views):
            for encoder in encoders if normalise else []:
                prepared = clip.prepared[View(encoder.preprocess.resize_spec)]
                for start in encoder.starts(len(prepared)):
                    Normalise(encoder.preprocess)(window(prepared, start, encoder.span))
        decoders.close()

    # --- the whole ------------------------------------------------------------------------------

    def official_way(self, clips: int | None = None) -> None:
        out = fresh(self.place / "official")
        for source in self.sources[:clips]:
            self.official.extract(source, out)

    def ours(
        self,
        compile: Literal["on", "off"] = "off",  # noqa: A002 (the option)
        clips: int | None = None,
    ) -> Summary:
        return extract(
            Manifest.from_clips("bench", self.manifest.clips()[:clips]),
            self.corpus,
            self.spec,
            self.place,
            store_root=fresh(self.place / "features"),
            executor="serial",
            device=self.device,
            compile=compile,
        )

    def limit(self, batches: dict[str, list[torch.Tensor]]) -> None:
        """The forward passes alone, on prepared frames in memory."""
        for name, encoder in self.encoders.items():
            rows = [encoder.encode(pixels.to(self.device)) for pixels in batches[name]]
            torch.cat(rows).cpu()

    def batches(self) -> dict[str, list[torch.Tensor]]:
        """All rows in batches of whatever size is the fastest."""
        found = {}
        for name, encoder in self.encoders.items():
            rows = self._rows(encoder)
            sizes = [k for k in BATCHES if k <= len(rows)]
            cost = {k: per_row(encoder, rows, k, self.device) for k in sizes}
            best = min(sizes, key=cost.__getitem__)
            found[name] = [
                stack_windows(rows[k : k + best], encoder.span) for k in range(0, len(rows), best)
            ]
        return found

    def _rows(self, encoder: Encoder) -> list[torch.Tensor]:
        rows = []
        for clip, probe in zip(self.manifest.clips(), self.probes, strict=True):
            frames, _ = video.read(self.corpus, clip, probe)
            prepared = prepare(frames, encoder.preprocess.resize_spec, self.spec.frames.resize)
            rows += [window(prepared, k, encoder.span) for k in encoder.starts(len(prepared))]
        return rows


def per_row(encoder: Encoder, rows: list[torch.Tensor], batch: int, device: str) -> float:
    """Seconds a row, the faster of two."""
    pixels = stack_windows(rows[:batch], encoder.span).to(device)
    encoder.encode(pixels).cpu()
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        encoder.encode(pixels).cpu()
        taken.append(time.perf_counter() - began)
    return min(taken) / batch


def load_once() -> None:
    """Loading and hashing the weights is the same few seconds for a clip and for a corpus."""
    vars(registry)["build"] = lru_cache(registry.build)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


# --- sections -------------------------------------------------------------------------------------


def show_input(place: Path, rounds: int) -> None:
    """The input side: PNG folders, then 720p H.264 at several bit rates."""
    sources = footage.png_folders(place / "png" / "corpus", CLIPS["input"])
    one_input("PNG 210x260", Bench(place / "png", "tiny", sources, "cpu"), rounds, aim=3.5)
    for rate in BIT_RATES:
        folder = place / f"mp4-{rate}"
        sources = footage.mp4_files(folder / "corpus", CLIPS["input"], rate)
        bench = Bench(folder, "tiny", sources, "cpu")
        one_input(f"H.264 1280x720, {rate / 1e6:g} Mb/s", bench, rounds, aim=2.5)


def one_input(title: str, bench: Bench, rounds: int, *, aim: float) -> None:
    times = measure(
        {
            "official": bench.official_input,
            "ours": bench.our_input,
            "ours, normalised too": partial(bench.our_input, normalise=True),
        },
        rounds,
    )
    print(f"\ninput side, {title}")
    tell("official / ours", times["official"], times["ours"], least=aim)
    tell("official / ours, normalised too", times["official"], times["ours, normalised too"])


def show_networks(
    size: str,
    place: Path,
    rounds: int,
    *,
    against_official: float,
    against_limit: float | None = None,
) -> None:
    """Both streams from PNG folders on one core: the official way, ours, the limit."""
    sources = footage.png_folders(place / "corpus", CLIPS[size])
    bench = Bench(place, size, sources, "cpu")
    batches = bench.batches()
    summaries: list[Summary] = []
    contestants: dict[str, Callable[[], object]] = {
        "official": bench.official_way,
        "ours": lambda: summaries.append(bench.ours()),
        "limit": partial(bench.limit, batches),
    }
    times = measure(contestants, rounds)
    print(f"\nboth streams, {size} networks, float32, {sum(CLIPS[size])} frames of PNG")
    tell("official / ours", times["official"], times["ours"], least=against_official)
    tell("pure forward / ours", times["limit"], times["ours"], least=against_limit)
    show_shares(summaries)


def show_large(place: Path, rounds: int, device: str) -> None:
    """Full size on a GPU; absolute figures, and the share of what the chip can do."""
    print("\nboth streams, ViT-L/14 (scales 1, 2) and VideoMAE-L, float16, from PNG")
    print(f"  {torch.cuda.get_device_name(device)}")
    for aim in measure_full_size(place, "large", device, rounds=rounds):
        print(aim, flush=True)


def measure_full_size(
    place: Path,
    size: str,
    device: str,
    *,
    clips: int = 64,
    frames: int = 120,
    rounds: int = 2,
) -> Iterator[Aim]:
    """Frames per second from PNG, and the share of what the chip can do, as they are found.

    Args:
        clips: of ``frames`` each; some are drawn, the others are these again.
        rounds: over which medians are taken, of what is compiled.
    """
    few = min(clips, 4)
    drawn = footage.png_folders(place / "corpus", [frames] * few)
    bench = Bench(place, size, footage.again(place / "corpus", drawn, clips), device)
    peak = matrix_peak(device)
    work = sum(e.flops_per_row * e.rows(frames) for e in bench.encoders.values()) / frames
    yield Aim("TFLOP/s of a plain matrix product", peak / 1e12)
    # Not counted: libraries come into memory, and attention is planned.
    bench.ours("off", few)
    eager = steady(bench.ours("off", clips // 2))
    yield Aim("frames/s, not compiled", eager)
    eager_limit = forward_rate(bench, frames)
    yield Aim("frames/s of the forward pass alone, not compiled", eager_limit)
    yield Aim("share of the forward pass, not compiled", eager / eager_limit)
    yield Aim("share of the matrix product, not compiled", work * eager / peak)
    yield Aim("seconds of compiling", bench.ours("on", few).compile_seconds)
    runs = [bench.ours("on") for _ in range(rounds)]
    show_shares(runs)
    ours = statistics.median(map(steady, runs))
    yield Aim("frames/s", ours, 700)
    whole = statistics.median(run.rate for run in runs)
    yield Aim(f"frames/s with the start and the end of {clips * frames:,} frames", whole)
    yield Aim("share of the matrix product", work * ours / peak)
    yield Aim("share of time in which the device has a batch", runs[-1].busy or 0.0, 0.97)
    limit = forward_rate(bench, frames)
    yield Aim("frames/s of the forward pass alone", limit)
    yield Aim("share of the forward pass", ours / limit, 0.95)
    official = measure({"": partial(bench.official_way, 1)}, 1)[""]
    slow = frames / statistics.median(official.wall)
    yield Aim("frames/s of the official way", slow)
    yield Aim("ours / official", whole / slow, 10)
    share = busy_share(partial(bench.ours, "on", clips // 2), device)
    yield Aim("share of time in which a kernel runs", share)
    yield Aim("seconds of compiling in a further process", compiled_again(bench))


def steady(run: Summary) -> float:
    """Frames per second from the first batch to the last; a corpus has few starts and ends."""
    seconds = run.stage_seconds["encode"] + run.stage_seconds["wait"]
    return run.computed_frames / seconds


def forward_rate(bench: Bench, frames: int) -> float:
    """Frames per second of both streams, of batches that lie on the device."""
    device = open_device(bench.device)
    seconds = 0.1 if bench.device == "cpu" else 3.0
    rates = {e: device.forward_rate(e, seconds) for e in bench.encoders.values()}
    return frames / sum(e.rows(frames) / rate for e, rate in rates.items())


def compiled_again(bench: Bench) -> float:
    """Seconds, where what this process keeps is forgotten, and its files are not."""
    torch._dynamo.reset()
    device = open_device(bench.device)
    return sum(device.compile(encoder, must=True) for encoder in bench.encoders.values())


def matrix_peak(device: str, side: int = 8192) -> float:
    """Operations per second of a plain product, in half precision on a GPU."""
    gpu = device != "cpu"
    side = side if gpu else 256
    left = torch.randn(side, side, device=device, dtype=torch.float16 if gpu else torch.float32)
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        products = [left @ left for _ in range(8)]
        # The copy waits for all of them.
        products[-1][0, 0].item()
        taken.append((time.perf_counter() - began) / 8)
    return float(2 * side**3 / statistics.median(taken[2:]))


def busy_share(run: Callable[[], object], device: str) -> float:
    """Share of the time from the first kernel to the last in which one runs."""
    gpu = device != "cpu"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as profiler:
        run()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or []
        # Copies run beside kernels, and where none runs.
        if gpu == (event.device_type.name == "CUDA") and not event.name.startswith("Mem")
    )
    if not spans:  # on a CPU, where threads beside this one are not seen
        return 0.0
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return float(busy / (reached - spans[0][0]))


def show_shares(summaries: Sequence[Summary]) -> None:
    shares = summaries[-1].stage_seconds
    whole = sum(shares.values())
    print("  where ours spends it: " + ", ".join(f"{k} {v / whole:.3f}" for k, v in shares.items()))


def tell(what: str, slow: Times, fast: Times, least: float | None = None) -> None:
    """A ratio of CPU time, the wall clock's beside it."""
    cpu, text = (
        ratio(slow.cpu, fast.cpu),
        f"{what} (by the clock {ratio(slow.wall, fast.wall):.2f})",
    )
    print(f"{text:<58} {cpu:8.2f}" if least is None else Aim(text, cpu, least), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    sections = ["input", "tiny", "small", "large"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    arguments = parser.parse_args()
    rounds: int = arguments.rounds
    cuda = torch.cuda.is_available()
    load_once()
    with tempfile.TemporaryDirectory(prefix="spamo-bench-") as folder:
        os.environ["SPAMO_HOME"] = folder
        if "large" in arguments.only and cuda:
            show_large(Path(folder) / "large", rounds, "cuda")
        elif "large" in arguments.only:
            print("large: no GPU at hand, left out")
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
        if "input" in arguments.only:
            show_input(Path(folder), rounds)
        if "tiny" in arguments.only:
            show_networks("tiny", Path(folder) / "tiny", rounds, against_official=1.6)
        if "small" in arguments.only:
            place = Path(folder) / "small"
            show_networks("small", place, rounds, against_official=1.08, against_limit=0.95)


if __name__ == "__main__":
    main()
