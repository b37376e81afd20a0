"""Manifests and cache specs from somebody else: each is used, or refused by one clear error."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from spamo_cache.cli.main import app
from spamo_cache.datasets.manifest import Manifest

WEIGHTS = Path(__file__).parents[1] / "golden" / "encoders"
TABLES = 300
SPECS = 300
SPEC = """\
name: tiny
streams:
  spatial: {encoder: open_clip, weights: clip-vision, scales: [1, 2], layer: -1}
  motion: {encoder: videomae, weights: videomae, window: 16, stride: 8, tail: drop}
frames: {resize: pil}
compute: float32
store: {dtype: float16, chunk_rows: {frame: 8, window: 2}, shard_rows: {frame: 64, window: 16}}
"""
ROWS = [
    {"id": f"clip {k}", "split": "train", "source": f"frames/{k}", "text": "wort", "language": "de"}
    for k in range(4)
]
VALUES: list[Any] = [
    *("../../etc/passwd", "/etc/passwd", "~root", "C:\\x", "\0", "a" * 100_000, "", " ", "\u202e"),
    *("$(touch ran)", "`touch ran`", "${HOME}", "{{7*7}}", "%s%n", "<script>", "a\nb", "a\tb", '"'),
    *("!!python/object/apply:os.system [touch ran]", "1e999", "nan", "frames/1", "open_clip"),
    *(None, True, -1, 0, 1, 3, 7, 10**30, 1e308, float("inf"), float("nan"), [], {}, [1, 2], [[]]),
    {"frame": 8}, {"a": {"b": []}}, "spatial", "videomae", "clip-vision", "spec.yaml", ".", "..",
]  # fmt: skip
Damage = Callable[[random.Random, bytes], bytes]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for row in ROWS:
        folder = tmp_path / "lab" / row["source"]
        folder.mkdir(parents=True)
        for k in range(3):
            cv2.imwrite(str(folder / f"{k}.png"), np.full((32, 40, 3), 40 * k, np.uint8))
    lab = tmp_path / "lab"
    for network in ("clip-vision", "videomae"):
        shutil.copytree(WEIGHTS / network, lab / network)
    (lab / "spec.yaml").write_text(SPEC, encoding="utf-8")
    (lab / "clips.jsonl").write_bytes(table("jsonl"))
    monkeypatch.chdir(lab)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPAMO_CACHE", raising=False)
    return lab


def table(kind: str, rows: list[dict[str, Any]] = ROWS) -> bytes:
    """A manifest as text."""
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter={"csv": ",", "tsv": "\t"}[kind])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogatepass")


def replaced(chance: random.Random, document: Any) -> Any:
    """A copy in which one value is something nobody expects."""
    if isinstance(document, dict) and document:
        key = chance.choice(list(document))
        return {**document, key: replaced(chance, document[key])}
    if isinstance(document, list) and document and chance.random() < 0.8:
        place = chance.randrange(len(document))
        return [*document[:place], replaced(chance, document[place]), *document[place + 1 :]]
    return chance.choice(VALUES)


def flipped(chance: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def doubled(chance: random.Random, data: bytes) -> bytes:
    start, end = sorted(chance.sample(range(len(data) + 1), 2))
    return data[:end] + data[start:]


def noise(chance: random.Random, data: bytes) -> bytes:
    return chance.randbytes(len(data))


DAMAGES: list[Damage] = [flipped, cut, doubled, noise]


def run(*words: str) -> int:
    """The exit code, 0, 1 or 2; where it is not 0, there was one error and no traceback."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), result.output
    assert "Traceback" not in result.output
    if result.exit_code:
        told = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(told) == 1, result.stderr
    return result.exit_code


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_hostile_manifests(lab: Path, kind: str) -> None:
    chance = random.Random(kind)
    for number in range(TABLES // 3):
        if number % 2:
            damaged = chance.choice(DAMAGES)(chance, table(kind))
        else:
            rows = [{**row, "start": 0.5} for row in ROWS]
            rows[0] = replaced(chance, rows[0])
            damaged = table(kind, rows)
        (lab / f"bad.{kind}").write_bytes(damaged)
        run(
            "manifest",
            "-d",
            "bad",
            "--manifest",
            f"bad.{kind}",
            "-o",
            str(lab / f"{number}.parquet"),
        )
    assert not (lab / "ran").exists()
    for written in lab.glob("*.parquet"):
        for clip in Manifest.read(written).clips():
            assert not Path(clip.source).is_absolute()
            assert ".." not in Path(clip.source).parts


@pytest.mark.slow
def test_hostile_specs(lab: Path) -> None:
    chance = random.Random(0)
    sound = yaml.safe_load(SPEC)
    before = {path for path in lab.rglob("*") if path.is_file()}
    codes = Counter[int]()
    for number in range(SPECS):
        if number % 3:
            damaged = yaml.safe_dump(replaced(chance, sound)).encode()
        else:
            damaged = chance.choice(DAMAGES)(chance, SPEC.encode())
        (lab / "bad.yaml").write_bytes(damaged)
        codes[run("extract", "-d", "clips", "--manifest", "clips.jsonl", "--root", ".",
                  "--spec", "bad.yaml", "--dry-run", "--device", "cpu")] += 1  # fmt: skip
    assert {path for path in lab.rglob("*") if path.is_file()} == {*before, lab / "bad.yaml"}
    assert codes[0] > 5, "hardly one was sound enough to be used"
