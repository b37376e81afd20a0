"""Eight minutes on a GPU: whether the path works that this project is for, and how fast it is.

Usage: python benchmarks/gpu.py [--out DIR] [--only tests extract train chain] [--rehearse]

    tests    pytest -m gpu: whatever differs on a device
    extract  both streams at full size: frames/s against the pure forward pass, the chip's measured
             peak and the official way; how long the device waits
    train    LoRA and warm-up at full size: steps/s against the official way, memory, waiting
    chain    the bundled corpus from its videos to its report

Each section is a process with a limit of its own, and with what those before it have left of
theirs, so that none costs another its minutes. Each figure is printed and kept in
DIR/<section>.json as soon as it is there: a section that fails or is killed loses what was to come,
no more. --rehearse runs all of it on a CPU at tiny size: its figures mean nothing, but no mistyped
line waits for a GPU. gpu.md says how to carry it to a machine without network.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from reference.aims import Aim

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Section:
    """What is measured, and how long it may take on a GPU, seconds."""

    run: Callable[[Path, bool], Iterator[Aim]]
    seconds: int


def tests(place: Path, _rehearse: bool) -> Iterator[Aim]:
    """A rehearsal finds them skipped: `make test` runs the same code on the CPU."""
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--basetemp", str(place / "pytest"), "--durations", "5", "tests/gpu"]
    # Warnings of this machine's libraries are listed, and hide no result; what hangs says where.
    command += ["-W", "default", "-o", "faulthandler_timeout=60"]
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    yield Aim("tests that fail on the device (pytest's exit code)", code, most=0)


def extract(place: Path, rehearse: bool) -> Iterator[Aim]:
    from extract import load_once, measure_full_size

    load_once()
    if rehearse:
        yield from measure_full_size(place, "tiny", "cpu", clips=2, frames=17, rounds=1)
    else:
        yield from measure_full_size(place, "large", "cuda")


def train(place: Path, rehearse: bool) -> Iterator[Aim]:
    from reference.memory import CLIPS, memory
    from train import compare, figures

    device, size = ("cpu", "small") if rehearse else ("cuda", "large")
    less = {"batch": 2, "clips": 8} if rehearse else {}
    seconds = 0.1 if rehearse else 30
    yield from figures(compare(place, device=device, size=size, seconds=seconds, **less))
    for shape in ["base"] if rehearse else ["large", "base"]:
        for checkpointing in (False, True):
            held = memory(device, shape, *CLIPS["longest"], checkpointing=checkpointing)
            what = f"{shape}, batch 16, longest clips" + ", checkpointing" * checkpointing
            if not rehearse:
                yield Aim(f"{what}: GB measured", held["measured"] / 1e9)
            yield Aim(f"{what}: GB reckoned", held["reckoned"] / 1e9)


def chain(place: Path, rehearse: bool) -> Iterator[Aim]:
    """The bundled corpus, drawn as PNG, from its frames to its report."""
    from reference.weather import draw

    import spamo_cache as sc
    from spamo_cache.extract.extraction import extract as compute
    from spamo_cache.workflow import resolve

    device = "cpu" if rehearse else "cuda"
    align, translate = (2, 4) if rehearse else (200, 500)
    began = time.perf_counter()
    manifest = draw(place / "corpus", 600, "weather", limit=3 if rehearse else None)
    yield Aim("frames drawn, s", time.perf_counter() - began)
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
    yield Aim(f"features of {summary.clips} clips, s from the beginning", since(began))
    yield Aim("clips that failed", len(summary.failed), most=0)
    steps = {"align.steps": align, "translate.steps": translate, "translate.eval_every": translate}
    run = sc.train(
        "signed-weather",
        set={"corpus": "weather", **steps},
        manifest=manifest,
        features={stream: str(store) for stream, store in summary.stores.items()},
        output=place / "run",
        device=device,
    )
    yield Aim(f"{align} + {translate} steps, s from the beginning", since(began))
    scores = sc.evaluate(run, device=device).metrics
    yield Aim("BLEU-4 on test", scores["bleu4"])
    yield Aim("a scorecard, s from the beginning", since(began))
    page = sc.report(run, place / "report.html")
    yield Aim("bytes of the report", page.stat().st_size, least=10_000)
    yield Aim("a report, s from the beginning", since(began))


def since(began: float) -> float:
    return time.perf_counter() - began


SECTIONS = {
    "tests": Section(tests, 100),
    "extract": Section(extract, 185),
    "train": Section(train, 140),
    "chain": Section(chain, 50),
}


def measure_alone(name: str, out: Path, place: Path, rehearse: bool) -> None:
    """What a section's process does."""
    began = time.perf_counter()
    os.environ |= {"SPAMO_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
    if rehearse:  # half a minute of a C++ compiler, for networks that take a second
        os.environ |= {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
        torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(), "ended": False, "figures": []}
    for aim in SECTIONS[name].run(place, rehearse):
        print(f"{since(began):6.1f} s  {aim}", flush=True)
        found["figures"].append(asdict(aim))
        keep(out, name, found | {"seconds": round(since(began), 1)})
    keep(out, name, found | {"seconds": round(since(began), 1), "ended": True})


def keep(out: Path, name: str, found: dict[str, Any]) -> None:
    """Whole, whenever this process is killed."""
    part = out / f"{name}.part"
    part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    part.replace(out / f"{name}.json")


def in_memory() -> Path | None:
    """A folder that lies in memory, if it has room for Flan-T5-XL, which is read three times."""
    shared = Path("/dev/shm")  # noqa: S108 (the folder made there is private)
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 20e9 else None


def machine() -> dict[str, object]:
    """What figures depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"cudnn": str(torch.backends.cudnn.version())}
    return {"gpu": gpu, "cores": len(os.sched_getaffinity(0)), **versions}


def measure(name: str, out: Path, limit: float | None, *, rehearse: bool) -> None:
    """Run a section in a process of its own, for so many seconds at most."""
    at_most = f", at most {limit:.0f} s" if limit else ""
    print(f"\n=== {name}{at_most}", flush=True)
    (out / f"{name}.json").unlink(missing_ok=True)
    # From a checkout that need not be installed.
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # Nothing is there yet, and nothing is left behind, not even by what was killed.
    with tempfile.TemporaryDirectory(
        prefix="spamo-gpu-", dir=in_memory(), ignore_cleanup_errors=True
    ) as place:
        command = [sys.executable, __file__, "--alone", name, place, "--out", str(out)]
        command += ["--rehearse"] if rehearse else []
        # A session of its own, so that nothing it has started outlives it and keeps the device.
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                print(f"{name}: not done after {limit:.0f} s", flush=True)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def table(out: Path, names: list[str]) -> tuple[bool, bool]:
    """Print all figures beside their goals; whether all sections ended, and no goal was missed."""
    ended = reached = True
    for name in names:
        kept = out / f"{name}.json"
        found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        whole = bool(found.get("ended"))
        print(f"\n{name}: {found.get('seconds', 0)} s" + ("" if whole else ", NOT DONE, see above"))
        aims = [Aim(**figure) for figure in found.get("figures", [])]
        print("\n".join(map(str, aims)))
        ended &= whole
        reached &= all(aim.reached for aim in aims)
    return ended, reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.alone:
        name, place = arguments.alone
        measure_alone(name, out, Path(place), arguments.rehearse)
        return
    if not (arguments.rehearse or torch.cuda.is_available()):
        sys.exit("no GPU at hand: --rehearse runs this on the CPU at tiny size")
    print(json.dumps(machine()))
    began, allowed = time.monotonic(), 0
    for name in arguments.only:
        allowed += SECTIONS[name].seconds
        left = began + allowed - time.monotonic()
        # A CPU may take its time.
        measure(name, out, None if arguments.rehearse else left, rehearse=arguments.rehearse)
    ended, reached = table(out, arguments.only)
    # On a CPU at tiny size goals mean nothing: all that counts there is that every section ended.
    sys.exit(0 if ended and (reached or arguments.rehearse) else 1)


if __name__ == "__main__":
    main()
