"""A flipped bit in any file of a run is refused by whatever reads the file, or changes nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spamo_cache.errors import SpamoError
from spamo_cache.evaluate import evaluate
from spamo_cache.report.page import page_html
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.load import load_run
from spamo_cache.runs.records import Scorecard

FILES = [
    "config.yaml", "manifest.parquet", "run.json", "metrics.jsonl", "model.safetensors",
    "done.json", "lock", "mean_rows.safetensors",
    "evaluation/test.json", "evaluation/test.hypotheses.jsonl", "analysis/test.json",
    "analysis/attribution/SHOT.json", "analysis/attribution/SHOT-0.jpg",
]  # fmt: skip
REFUSED = {"report", "evaluate", "load"}
READERS = {
    "config.yaml": REFUSED,
    "manifest.parquet": REFUSED - {"report"},
    "run.json": REFUSED,
    "metrics.jsonl": {"report"},
    "model.safetensors": {"evaluate", "load"},
    "done.json": REFUSED,
    # An evaluation that is damaged is made anew.
    "evaluation/test.json": {"report"},
    "evaluation/test.hypotheses.jsonl": {"report"},
    "analysis/test.json": {"report"},
    "analysis/attribution/SHOT.json": {"report"},
    "analysis/attribution/SHOT-0.jpg": {"report"},
}
"""File -> the readers that look into it."""
PLACES = (0.0, 0.1, 0.37, 0.62, 0.93, 1.0)
"""Where in a file bits are flipped, as shares of its length."""


def evaluated(run: Path, roots: list[str]) -> Scorecard:
    from spamo_cache.runs.load import open_stores

    return evaluate(run, "test", stores=open_stores(RunFolder(run), roots), device="cpu")


def loaded(run: Path) -> str:
    total, opened = hashlib.sha256(), load_run(run, device="cpu")
    assert opened.prompts  # made from the sentences that the run keeps
    for name, value in sorted(opened.translator.trained().items()):
        total.update(name.encode() + value.detach().numpy().tobytes())
    return total.hexdigest()


def tried(read: Callable[[Path], Any], run: Path) -> Any:
    """What a reader says, or its error."""
    try:
        return read(run)
    except SpamoError as error:
        return error


@pytest.fixture(scope="module")
def copy(tiny, tmp_path_factory) -> Path:
    """The run, to be damaged and mended."""
    run = tmp_path_factory.mktemp("damaged") / "tiny"
    shutil.copytree(tiny.run, run)
    return run


@pytest.fixture(scope="module")
def readers(tiny) -> dict[str, Any]:
    return {
        "report": lambda run: page_html([run], roots=tiny.roots),
        "evaluate": lambda run: evaluated(run, tiny.roots),
        "load": loaded,
    }


@pytest.fixture(scope="module")
def whole(copy, readers) -> dict[str, Any]:
    """What the readers say of the undamaged run."""
    return {name: read(copy) for name, read in readers.items()}


def test_every_file_of_a_run_is_tried(copy) -> None:
    shot = next((copy / "analysis/attribution").glob("*.json")).stem
    named = {name.replace("SHOT", shot) for name in FILES}
    # Plain texts are for sacrebleu's command line: nothing here reads them.
    files = (p for p in copy.rglob("*") if p.is_file() and p.parent.suffix != ".texts")
    assert named == {str(path.relative_to(copy)) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(copy, readers, whole, name) -> None:
    shot = next((copy / "analysis/attribution").glob("*.json")).stem
    file = copy / name.replace("SHOT", shot)
    data = file.read_bytes()
    refused = dict.fromkeys(readers, 0)
    places = sorted({int(share * (len(data) - 1)) for share in PLACES}) if data else []
    for number, place in enumerate(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place + number) % 8
        file.write_bytes(damaged)
        for reader, read in readers.items():
            if reader == "load" and number > 1:
                continue  # dear, and the checks are the same
            told = tried(read, copy)
            assert told == whole[reader] or file.name in str(told)
            refused[reader] += isinstance(told, SpamoError)
    file.write_bytes(data)
    assert {reader for reader, times in refused.items() if times} == READERS.get(name, set())
    # Only in white space may a bit count for nothing.
    assert all(refused[reader] >= len(places) - 1 for reader in READERS.get(name, set()) - {"load"})
