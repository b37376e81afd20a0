"""A finished run, opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spamo_cache.errors import UsageError
from spamo_cache.runs.load import load_run
from spamo_cache.store.reader import FeatureStore


def test_an_opened_run_gives_what_was_kept_without_loading_its_weights(tiny: Any) -> None:
    run = load_run(tiny.run, device="cpu", roots=tiny.roots)
    assert run.summary is not None
    assert run.summary.trained > 0
    fingerprints = {name: FeatureStore.open(path).fingerprint for name, path in tiny.stores.items()}
    assert {name: store.fingerprint for name, store in run.stores.items()} == fingerprints
    evaluation = run.evaluation("test")
    kept = json.loads((tiny.run / "evaluation" / "test.json").read_text(encoding="utf-8"))
    assert evaluation.metrics == kept["metrics"]
    assert [line.id for line in evaluation.lines] == ["test-0", "test-1"]
    assert evaluation.lines[0].reference == "wort 0 im satz"
    assert "translator" not in vars(run)
    assert not run.translator.training


def test_what_was_not_evaluated_is_one_error(tiny: Any) -> None:
    with pytest.raises(UsageError, match="not evaluated on train"):
        load_run(tiny.run, device="cpu").evaluation("train")


def test_a_folder_that_is_no_run_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        load_run(tmp_path, device="cpu")
