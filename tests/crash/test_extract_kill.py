"""Kill the extracting process with SIGKILL, run it again: the bytes of an uninterrupted run."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
KILLS = int(os.environ.get("SPAMO_KILLS", "2"))

PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path

from spamo_cache.config import CacheSpec, parse
from spamo_cache.extract.run import extract


@dataclass(frozen=True)
class Clip:
    id: str
    split: str
    source: str
    start = end = crop = None


class Manifest:
    corpus = "toy"

    def __init__(self, root):
        self.rows = [Clip(p.name, "train", p.name) for p in sorted(root.iterdir())]

    def __len__(self):
        return len(self.rows)

    def clips(self):
        return self.rows


root, golden, store = map(Path, sys.argv[1:])
streams = {
    "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1]},
    "motion": {"encoder": "videomae", "weights": "videomae"},
}
rows = {"chunk_rows": {"frame": 16, "window": 2}, "shard_rows": {"frame": 32, "window": 4}}
spec = parse({"name": "t", "streams": streams, "store": rows}, CacheSpec, where="test")
print("begun", flush=True)
extract(Manifest(root), root, spec, golden, store_root=store, executor="serial", device="cpu",
        progress=lambda step: print(step.stage, step.clips, flush=True))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for clip in range(12):
        (root / f"clip{clip}").mkdir()
        for k in range(12):
            image = generator.integers(0, 256, (32, 40, 3), np.uint8)
            cv2.imwrite(str(root / f"clip{clip}" / f"{k}.png"), image)
    return root


def start(corpus: Path, store: Path) -> subprocess.Popen[str]:
    given = [str(path) for path in (corpus, GOLDEN, store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SPAMO_HOME": str(store.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *given],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(store: Path) -> dict[str, str]:
    """Hashes of features and clip index of all stores below a root."""
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file() and {"features", "clips"} & set(file.relative_to(store).parts)
    }


def receipts(store: Path) -> dict[str, str]:
    return {str(file): file.read_text() for file in sorted(store.rglob("receipts/*.json"))}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_runs_end_like_an_uninterrupted_one(corpus: Path, tmp_path: Path) -> None:
    whole = start(corpus, tmp_path / "whole")
    output, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    assert "extract 12" in output

    chance = np.random.default_rng(len(output))
    store = tmp_path / "killed"
    for _ in range(KILLS):
        finished = receipts(store)
        process = start(corpus, store)
        assert process.stdout is not None
        # Die somewhere in the work: after one to three clips and a few milliseconds.
        wanted = f"extract {int(chance.integers(1, 4))}"
        for line in process.stdout:
            if line.strip() == wanted:
                break
        time.sleep(float(chance.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = receipts(store)
        assert finished.items() <= after.items(), "a finished partition was computed twice"
    last = start(corpus, store)
    output, errors = last.communicate(timeout=240)
    assert last.returncode == 0, errors
    assert contents(store) == contents(tmp_path / "whole")
    left = [path for path in store.rglob("*") if ".work" in path.parts and path.is_file()]
    assert not left, "dead runs' files were not swept"
