"""A corpus, a spec and the command on them, in processes that may be killed."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.launcher import Child, Launch

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
SPEC = """\
name: tiny
streams:
  spatial: {encoder: open_clip, weights: clip-vision, scales: [1]}
  motion: {encoder: videomae, weights: videomae}
store: {chunk_rows: {frame: 16, window: 2}, shard_rows: {frame: 64, window: 8}}
"""

Start = Callable[..., Child]


def fill(folder: Path, clips: int, frames: int = 12) -> None:
    """Fill a folder with a corpus of image folders, a manifest, a spec and networks."""
    generator = np.random.default_rng(0)
    rows = []
    for clip in range(clips):
        source = folder / "frames" / f"{clip:03}"
        source.mkdir(parents=True)
        for k in range(frames):
            picture = generator.integers(0, 256, (32, 40, 3), np.uint8)
            cv2.imwrite(str(source / f"{k}.png"), picture)
        rows.append([f"clip{clip:03}", "train", f"frames/{clip:03}", "wort", "German"])
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "split", "source", "text", "language"], *rows])
    for network in ("clip-vision", "videomae"):
        shutil.copytree(GOLDEN / network, folder / network)
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")


@pytest.fixture(scope="session")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Draw a corpus of so many clips, four to a partition."""

    def drawn(name: str, clips: int) -> Path:
        folder = tmp_path_factory.mktemp(name)
        fill(folder, clips)
        return folder

    return drawn


@pytest.fixture(scope="session")
def site(draw: Callable[..., Path]) -> Path:
    """A corpus of 16 partitions; extracting it takes some seconds."""
    return draw("site", 64)


@pytest.fixture
def start(launch: Launch, quick_python: None, site: Path, tmp_path: Path) -> Iterator[Start]:
    """Start ``extract`` as a user would: a process of its own, in a group of its own."""
    running = []

    def begin(store: Path, *options: str, **environment: str) -> Child:
        words = [
            "-d",
            "manifest",
            "--manifest",
            "manifest.csv",
            "--spec",
            "spec.yaml",
            "--json",
            "--store",
            store,
        ]
        given = {"SPAMO_HOME": str(tmp_path / "home"), **environment}
        process = launch("spamo_cache", "extract", *words, *options, cwd=site, **given)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """Hashes of features and clip index of all stores below a root."""

    def of(store: Path) -> dict[str, str]:
        return {
            str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(store.rglob("*"))
            if file.is_file() and {"features", "clips"} & set(file.relative_to(store).parts)
        }

    return of


@pytest.fixture(scope="session")
def receipts() -> Callable[[Path], dict[str, tuple[bytes, int]]]:
    """Receipts of all stores below a root: contents and time."""

    def of(store: Path) -> dict[str, tuple[bytes, int]]:
        return {
            str(file): (file.read_bytes(), file.stat().st_mtime_ns)
            for file in sorted(store.rglob("receipts/[0-9]*.json"))
        }

    return of
