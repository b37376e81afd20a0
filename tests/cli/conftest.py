"""A corpus of a few folders of PNG frames, tiny networks, and the command line on them."""

import csv
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from spamo_cache.cli.main import app

GOLDEN = Path(__file__).parents[1] / "golden"
SPLITS = {"train": 6, "dev": 2, "test": 2}
SPEC = """\
name: tiny
streams:
  spatial: {encoder: open_clip, weights: clip-vision, scales: [1]}
  motion: {encoder: videomae, weights: videomae}
store: {chunk_rows: {frame: 8, window: 2}, shard_rows: {frame: 64, window: 16}}
"""
PIPELINE = """\
name: tiny
question: Do the stages fit together?
corpus: frames
spec: spec.yaml
text: {language: German, tokenize: none}
adapter: {width: 8}
llm: {weights: llm, tuning: {r: 2, alpha: 4}}
align: {steps: 2, batch: 2, lr: 1e-3}
translate: {steps: 3, batch: 2, lr: 1e-3, eval_every: 3}
decode: {beams: 2, max_tokens: 6}
"""


Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus and networks, made once."""
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    rows = []
    for split, count in SPLITS.items():
        for number in range(count):
            name = f"{split}-{number}"
            frames = folder / "frames" / name
            frames.mkdir(parents=True)
            for index in range(9 + 4 * number):
                picture = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
                assert cv2.imwrite(str(frames / f"{index:04}.png"), picture)
            rows.append([name, split, f"frames/{name}", f"wort {number} im satz", "German"])
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "split", "source", "text", "language"], *rows])
    for network in ("clip-vision", "videomae"):
        shutil.copytree(GOLDEN / "encoders" / network, folder / network)
    shutil.copytree(GOLDEN / "translator" / "llm", folder / "llm")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    (folder / "pipeline.yaml").write_text(PIPELINE, encoding="utf-8")
    return folder


@pytest.fixture
def lab(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in: the working directory, with a home below it."""
    folder = tmp_path / "lab"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPAMO_CACHE", raising=False)
    return folder


@pytest.fixture(scope="session")
def enter() -> Enter:
    """Make a folder the working directory, with a home below it."""

    def into(folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.chdir(folder)
        patch.setenv("SPAMO_HOME", str(folder / "home"))
        patch.delenv("SPAMO_CACHE", raising=False)

    return into


@pytest.fixture(scope="session")
def call() -> Call:
    """Run a command in this process; a bug's exception passes through."""

    def run(*line: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, shlex.split(" ".join(line)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run
