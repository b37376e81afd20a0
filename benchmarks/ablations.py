"""What each part of the method is worth on signed-weather: the table in the README.

Usage: python benchmarks/ablations.py [--seeds 3] [--jobs 2] [--out runs/ablations]

Every row is a pipeline of pipelines/signed-weather, trained and scored on test by the public
commands; checkpoints are selected on dev. Runs that are there already are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import shipped

ROWS = {
    "default": "both streams, VT-Align, LoRA",
    "spatial-only": "spatial stream alone",
    "motion-only": "motion stream alone",
    "no-align": "without VT-Align",
    "random-encoders": "encoders with random weights",
    "shuffled": "features shuffled between clips (floor)",
}


def random_encoders(folder: Path) -> Path:
    """The corpus's cache spec beside encoders of the same shape that were never trained."""
    declare_torchvision_ops()
    from transformers import CLIPVisionConfig, CLIPVisionModel, VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    source = shipped("cache_specs")
    folder.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Callable[[Path], Any]] = {
        "clip-vision": lambda path: CLIPVisionModel(CLIPVisionConfig.from_pretrained(path)),
        "videomae": lambda path: VideoMAEModel(VideoMAEConfig.from_pretrained(path)),
    }
    for name, fresh in networks.items():
        target = folder / "random" / name
        shutil.copytree(source / "signed-weather" / name, target, dirs_exist_ok=True)
        fresh(target).save_pretrained(target)
    spec = folder / "random-encoders.yaml"
    text = (source / "signed-weather.yaml").read_text(encoding="utf-8")
    text = text.replace("name: signed-weather", "name: random-encoders")
    spec.write_text(text.replace("weights: signed-weather/", "weights: random/"), encoding="utf-8")
    return spec


def command(*arguments: str) -> str:
    """Run spamo-cache in one thread; its standard output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "spamo_cache", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"spamo-cache {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def score(name: str, seed: int, out: Path, spec: Path) -> dict[str, float]:
    """Train and score one run; its BLEU-4 and chrF on test, in points."""
    run = out / f"{name}-{seed}"
    file = "default" if name == "random-encoders" else name
    extra = ["--set", f"spec={spec}"] if name == "random-encoders" else []
    pipeline = f"pipelines/signed-weather/{file}.yaml"
    command("train", pipeline, "--set", f"seed={seed}", *extra, "-o", str(run))
    card = json.loads(command("evaluate", str(run), "--split", "test", "--json"))
    return {metric: card["metrics"][metric] for metric in ("bleu4", "chrf")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    arguments = parser.parse_args()
    spec = random_encoders(arguments.out / "random-encoders").resolve()
    if "random-encoders" in arguments.rows:
        command("extract", "--spec", str(spec))
    command("extract")
    work = [(name, seed) for seed in range(arguments.seeds) for name in arguments.rows]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        scores = list(pool.map(lambda item: score(item[0], item[1], arguments.out, spec), work))
    print("| | BLEU-4 | chrF | BLEU-4 from, to |\n|---|---|---|---|")
    for name in arguments.rows:
        cells, ends = [], ""
        for metric in ("bleu4", "chrf"):
            found = [s[metric] for (row, _), s in zip(work, scores, strict=True) if row == name]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}")
            ends = ends or f"{min(found):.1f} to {max(found):.1f}"
        print(f"| {ROWS[name]} | {' | '.join([*cells, ends])} |")
    print(f"\nTest split, mean ± standard deviation over {arguments.seeds} seeds on this machine.")


if __name__ == "__main__":
    main()
