"""Eight minutes on a GPU: whether the path works that this project is for, and how fast it is.

Usage: python benchmarks/gpu.py [--out DIR] [--only tests extract train chain] [--rehearse]

    tests    pytest -m gpu: whatever differs on a device
    extract  both streams at full size: frames/s against the pure forward pass, the chip's measured
             peak and the official way; how long the device waits
    train    LoRA and warm-up at full size: steps/s against the official way, memory, waiting
    chain    the embedded corpus from its videos to its report

Each section is a process with a limit of its own, so that none costs another its minutes; what it
finds goes to DIR/<section>.json as it ends. --rehearse runs all of it on a CPU at tiny size: its
figures mean nothing, but no mistyped line waits for a GPU. gpu.md says how to carry it to a machine
without network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import RawTextHelpFormatter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from reference.aims import Aim

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Section:
    """What is measured, and how long it may take on a GPU, seconds."""

    run: Callable[[Path, bool], list[Aim]]
    seconds: int


def tests(place: Path, _rehearse: bool) -> list[Aim]:
    """A rehearsal finds them skipped: `make test` runs the same code on the CPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--basetemp", str(place / "pytest"), "--durations", "5", "tests/gpu"]
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    return [Aim("tests that fail on the device (pytest's exit code)", code, most=0)]


def extract(place: Path, rehearse: bool) -> list[Aim]:
    from extract import load_once, measure_full_size

    load_once()
    if rehearse:
        return measure_full_size(place, "tiny", "cpu", clips=2, frames=17, rounds=1)
    return measure_full_size(place, "large", "cuda")


def train(place: Path, rehearse: bool) -> list[Aim]:
    from reference.memory import CLIPS, memory
    from train import compare

    device, size = ("cpu", "small") if rehearse else ("cuda", "large")
    less = {"batch": 2, "clips": 8} if rehearse else {}
    found = compare(place, device=device, size=size, seconds=0.1 if rehearse else 36, **less)
    figures = []
    for phase, least in (("align", 10.0), ("translate", 1.5)):
        one = found[phase]
        for name, rate in one["steps_per_second"].items():
            figures.append(Aim(f"{phase}, {name}: steps/s", rate))
            figures.append(Aim(f"{phase}, {name}: GB", one["peak_bytes"][name] / 1e9))
        figures += [
            Aim(f"{phase}: ours / official", one["times_official"], least),
            Aim(f"{phase}: share of time without a batch", one["waiting"], most=0.02),
        ]
    for shape in ["base"] if rehearse else ["base", "large"]:
        for checkpointing in (False, True):
            held = memory(device, shape, *CLIPS["longest"], checkpointing=checkpointing)
            what = f"{shape}, batch 16, longest clips" + ", checkpointing" * checkpointing
            figures.append(Aim(f"{what}: GB reckoned", held["reckoned"] / 1e9))
            if not rehearse:
                figures.append(Aim(f"{what}: GB measured", held["measured"] / 1e9))
    return figures


def chain(place: Path, rehearse: bool) -> list[Aim]:
    """The embedded corpus, drawn as PNG, from its frames to its report."""
    from reference.weather import draw

    import spamo_cache as sc
    from spamo_cache.extract.extraction import extract as compute
    from spamo_cache.workflow import resolve

    device = "cpu" if rehearse else "cuda"
    align, translate = (2, 4) if rehearse else (200, 500)
    manifest = draw(place / "corpus", 600, "weather", limit=3 if rehearse else None)
    began = time.perf_counter()
    spec, path = resolve.named_spec("signed-weather")
    # Below the command, which wants the video libraries at hand for any corpus.
    summary = compute(
        sc.Manifest.read(manifest),
        manifest.parent,
        spec,
        path.parent,
        store_root=place / "features",
        executor="dask",
        workers=1,
        device=device,
    )
    steps = {"align.steps": align, "translate.steps": translate, "translate.eval_every": translate}
    run = sc.train(
        "signed-weather",
        set={"corpus": "weather", **steps},
        manifest=manifest,
        features={stream: str(store) for stream, store in summary.stores.items()},
        output=place / "run",
        device=device,
    )
    scores = sc.evaluate(run, device=device).metrics
    page = sc.report(run, place / "report.html")
    return [
        Aim(f"{summary.clips} clips from frames to a report, s", time.perf_counter() - began),
        Aim("clips that failed", len(summary.failed), most=0),
        Aim(f"BLEU-4 on test after {align} + {translate} steps", scores["bleu4"]),
        Aim("bytes of the report", page.stat().st_size, least=10_000),
    ]


SECTIONS = {
    "tests": Section(tests, 110),
    "extract": Section(extract, 160),
    "train": Section(train, 150),
    "chain": Section(chain, 55),
}


def measure_alone(name: str, out: Path, rehearse: bool) -> None:
    """What a section's process does."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="spamo-gpu-", dir=in_memory()) as place:
        # Nothing is there yet, and nothing is left behind.
        os.environ |= {"SPAMO_HOME": str(Path(place) / "home"), "HF_HUB_OFFLINE": "1"}
        if rehearse:  # half a minute of a C++ compiler, for networks that take a second
            os.environ |= {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
            torch.set_num_threads(1)
        figures = SECTIONS[name].run(Path(place), rehearse)
    found = {"machine": machine(), "seconds": round(time.perf_counter() - began, 1)}
    found["figures"] = [asdict(aim) for aim in figures]
    (out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def in_memory() -> Path | None:
    """A folder that lies in memory, if it has room for Flan-T5-XL, which is read three times."""
    shared = Path("/dev/shm")  # noqa: S108 (the folder made there is private)
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 20e9 else None


def machine() -> dict[str, object]:
    """What figures depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"gpu": gpu, "cores": len(os.sched_getaffinity(0)), **versions}


def measure(name: str, out: Path, *, rehearse: bool) -> bool:
    """Run a section in a process of its own; whether it came to its end."""
    # A CPU may take its time.
    limit = None if rehearse else SECTIONS[name].seconds
    print(f"\n=== {name}, at most {limit} s" if limit else f"\n=== {name}", flush=True)
    command = [sys.executable, __file__, "--alone", name, "--out", str(out)]
    command += ["--rehearse"] if rehearse else []
    # From a checkout that need not be installed.
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # A session of its own, so that nothing it has started outlives it and keeps the device.
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            print(f"{name}: not done after {limit} s", flush=True)
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def table(out: Path, names: list[str], ended: dict[str, bool]) -> bool:
    """Print all figures beside their goals; whether nothing failed and none was missed."""
    good = True
    for name in names:
        if not ended[name]:
            print(f"\n{name}: FAILED, see above")
            good = False
            continue
        found = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        aims = [Aim(**figure) for figure in found["figures"]]
        print(f"\n{name}: {found['seconds']} s\n" + "\n".join(map(str, aims)))
        good &= all(aim.reached for aim in aims)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--alone", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.alone:
        measure_alone(arguments.alone, out, arguments.rehearse)
        return
    if not (arguments.rehearse or torch.cuda.is_available()):
        sys.exit("no GPU at hand: --rehearse runs this on the CPU at tiny size")
    print(json.dumps(machine()))
    ended = {name: measure(name, out, rehearse=arguments.rehearse) for name in arguments.only}
    good = table(out, arguments.only, ended)
    # On a CPU at tiny size goals mean nothing: all that counts there is that every section ended.
    sys.exit(0 if good or (arguments.rehearse and all(ended.values())) else 1)


if __name__ == "__main__":
    main()
