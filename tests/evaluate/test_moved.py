"""A run whose stores, LLM and cache spec lie elsewhere by now, as on another machine."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spamo_cache import config
from spamo_cache.cli.main import app
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import DamagedError, StoreError, WeightsError
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.load import load_run, open_stores
from spamo_cache.store.inventory import by_fingerprint
from spamo_cache.train import train

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def moved(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, ``features`` and ``lab`` (networks and spec); nothing lies where it was noted."""
    folder = tmp_path_factory.mktemp("another machine")
    shutil.copytree(tiny.run, folder / "run")
    shutil.copytree(tiny.folder / "features", folder / "features")
    lab = shutil.ignore_patterns("features", "runs")
    shutil.copytree(tiny.folder, folder / "lab", ignore=lab)
    hidden = tiny.folder.with_name("hidden")
    tiny.folder.rename(hidden)
    yield folder
    hidden.rename(tiny.folder)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.delenv("SPAMO_CACHE", raising=False)

    def run(*line: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(map(str, line)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.mark.slow
def test_stores_are_found_by_their_fingerprint(
    moved: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, features = moved / "run", moved / "features"
    fingerprint = RunFolder(run).read_about().fingerprints["spatial"]
    told = call("evaluate", run, code=1).stderr
    assert fingerprint[:12] in told
    assert "--store" in told
    expected = json.loads((run / "evaluation" / "test.json").read_text())["metrics"]
    card = json.loads(call("evaluate", run, "--store", features, "--json").stdout)
    assert card["metrics"] == expected
    monkeypatch.setenv("SPAMO_CACHE", f"{moved / 'nothing here'}{os.pathsep}{features}")
    assert json.loads(call("evaluate", run, "--json").stdout)["metrics"] == expected


@pytest.mark.slow
def test_the_llm_is_found_by_its_digest(moved: Path, call: Call) -> None:
    run, store = moved / "run", ("--store", moved / "features")
    told = call("evaluate", run, "--split", "dev", *store, code=1).stderr
    assert RunFolder(run).read_about().llm[:12] in told
    assert "--llm" in told
    other = moved / "another-llm"
    shutil.copytree(moved / "lab" / "llm", other)
    (other / "generation_config.json").write_text('{"num_beams": 7}')
    told = call("evaluate", run, "--split", "dev", *store, "--llm", other, code=1).stderr
    assert "not the one this run was trained with" in told
    llm = ("--llm", moved / "lab" / "llm")
    assert call("evaluate", run, "--split", "dev", *store, *llm).exit_code == 0
    assert call("analyze", run, "--split", "dev", *store, *llm).exit_code == 0
    clip = json.loads(call("analyze", run, "--clip", "dev-1", *store, *llm, "--json").stdout)
    assert list(clip[str(run)]) == ["dev-1"]


@pytest.mark.slow
def test_translate_checks_the_spec_and_its_encoders(moved: Path, call: Call) -> None:
    line = ("translate", moved / "run", moved / "lab" / "frames" / "test-1")
    llm, spec = ("--llm", moved / "lab" / "llm"), moved / "lab" / "spec.yaml"
    assert "--spec" in call(*line, *llm, code=2).stderr
    text = call(*line, *llm, "--spec", spec, "--json").stdout
    lines = (moved / "run" / "evaluation" / "test.hypotheses.jsonl").read_text().splitlines()
    said = {line["id"]: line["hypothesis"] for line in map(json.loads, lines)}
    assert json.loads(text)[0]["text"] == said["test-1"]
    strided = moved / "lab" / "strided.yaml"
    strided.write_text(spec.read_text().replace("scales: [1]", "scales: [1, 2]"))
    assert "--spec" in call(*line, *llm, "--spec", strided, code=2).stderr
    elsewhere = moved / "other weights"
    elsewhere.mkdir()
    shutil.copy(spec, elsewhere)
    shutil.copytree(moved / "lab" / "videomae", elsewhere / "videomae")
    shutil.copytree(moved / "lab" / "clip-vision", elsewhere / "clip-vision")
    weights = elsewhere / "clip-vision" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    told = call(*line, *llm, "--spec", elsewhere / "spec.yaml", code=1).stderr
    assert "is not what the run's features were computed with" in told


def test_a_report_finds_the_stores_too(moved: Path, call: Call, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    call("report", moved / "run", "-o", page, "--store", moved / "features")
    held = re.compile(r'<data value="10.0">10</data>\s*</td>\s*</tr>')
    assert held.search(page.read_text())
    call("report", moved / "run", "-o", page)
    assert not held.search(page.read_text())


@pytest.mark.slow
def test_training_again_from_the_new_places_notes_them(moved: Path, tmp_path: Path) -> None:
    run, lab = tmp_path / "run", moved / "lab"
    shutil.copytree(moved / "run", run)
    with pytest.raises(WeightsError, match="was not found"):
        load_run(run, device="cpu")
    again = train(
        config.load(lab / "pipeline.yaml", config.Pipeline, ["log=[]"]),
        base=lab,
        manifest=Manifest.read(lab / "manifest.csv", corpus="frames"),
        stores=open_stores(RunFolder(run), [str(moved / "features")]),
        out=run,
        device="cpu",
    )
    assert again.reused
    assert load_run(run, device="cpu").translator.folder == (lab / "llm").resolve()
    assert open_stores(RunFolder(run), [])["motion"].path.is_relative_to(moved / "features")


def test_the_store_that_has_the_clips_is_taken_and_a_damaged_one_told(
    tiny: Any, moved: Path, tmp_path: Path
) -> None:
    assert not tiny.folder.exists()
    (name,) = (path.name for path in (moved / "features" / "frames").glob("spatial-*"))
    fingerprint = RunFolder(moved / "run").read_about().fingerprints["spatial"]
    poor = tmp_path / "poor" / "other-corpus" / name
    shutil.copytree(moved / "features" / "frames" / name, poor)
    roots = [str(tmp_path / "poor"), str(moved / "features")]
    assert by_fingerprint(roots, fingerprint).path == poor
    document = poor / "zarr.json"
    document.write_bytes(document.read_bytes().replace(b'"clips":10', b'"clips":11'))
    assert by_fingerprint(roots, fingerprint).path != poor
    with pytest.raises(DamagedError, match="disagrees with its own checksum"):
        by_fingerprint(roots[:1], fingerprint)
    with pytest.raises(StoreError, match=fingerprint[:12]):
        open_stores(RunFolder(moved / "run"), [])
