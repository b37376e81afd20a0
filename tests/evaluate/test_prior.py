"""What a run says without seeing: mean rows, few translations, kept for the next time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.mixture import mixed
from spamo_cache.evaluate import evaluate, prior
from spamo_cache.model.rows import Packed
from spamo_cache.model.translator import Translator
from spamo_cache.runs.folder import RunFolder
from spamo_cache.train.features import MemoryFeatures

Finished = tuple[Path, Any]


def test_the_mean_is_over_all_valid_rows_however_many_clips_are_read_at_once() -> None:
    chance = np.random.default_rng(0)
    arrays = {f"c{n}": chance.normal(size=(n % 5 + 1, 3)).astype(np.float16) for n in range(40)}
    rows = np.concatenate(list(arrays.values())).astype(np.float64)
    found = prior.mean_row(MemoryFeatures(arrays), list(arrays))
    assert found == pytest.approx(rows.mean(0), abs=1e-6)
    valid = {clip: chance.random(len(one)) < 0.7 for clip, one in arrays.items()}
    marked = prior.mean_row(MemoryFeatures(arrays, valid=valid), list(arrays))
    assert marked == pytest.approx(rows[np.concatenate(list(valid.values()))].mean(0), abs=1e-6)


def test_a_card_has_what_the_run_says_blindly(
    finished: Finished, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    inputs: list[Mapping[str, Packed]] = []
    generate = Translator.generate

    def noted(self: Translator, streams: Mapping[str, Packed], *rest: Any) -> list[str]:
        inputs.append(streams)
        return generate(self, streams, *rest)

    monkeypatch.setattr(Translator, "generate", noted)
    stores = toy.corpus()[1]
    card = evaluate(run, "test", stores=stores, bootstrap=20, device="cpu")
    assert card.prior is not None
    assert card.prior.metrics.keys() == card.prior.intervals.keys() == set(prior.METRICS)
    assert 1 <= card.prior.sentences <= 3
    # Six clips have three lengths; each length is translated once, from one row over and over.
    blind = [
        one for one in inputs if all((rows.rows == rows.rows[0]).all() for rows in one.values())
    ]
    assert sorted(size for one in blind for size in one["spatial"].sizes) == [40, 44, 48]
    assert sum(len(one["spatial"].sizes) for one in inputs) == 6 + 3
    kept = (run / prior.FILE).read_bytes()
    # Another split reads no training clip again.
    monkeypatch.setattr(prior, "mean_row", None)
    assert evaluate(run, "dev", stores=stores, bootstrap=0, device="cpu").prior is not None
    assert (run / prior.FILE).read_bytes() == kept
    shuffled = evaluate(run, "test", stores=stores, shuffle=True, bootstrap=0, device="cpu")
    assert shuffled.prior is None


class Strict(MemoryFeatures):
    """As a store on disk: a clip that it does not have is an error."""

    def state(self, clip: str) -> Any:
        return {"a": "ok", "b": "ok"}[clip]


def test_of_several_corpora_the_mean_is_that_of_the_one_that_is_scored(
    toy: ModuleType, tmp_path: Path
) -> None:
    clip = toy.corpus()[0].clips("train")[0]
    own = Manifest.from_clips("toy", [replace(clip, id=name) for name in ("a", "b")])
    both = mixed(own, {"coast": replace(own, corpus="coast")}, ("toy", "coast"))
    stores = {"spatial": Strict({"a": np.zeros((1, 2)), "b": np.ones((1, 2))})}
    found = prior.mean_features(tmp_path, toy.pipeline(corpora=["toy", "coast"]), both, stores)
    rows = np.empty((1, 2))
    assert found is not None
    found["spatial"].read_into(["a"], rows)
    assert rows.tolist() == [[0.5, 0.5]]


def test_stores_without_training_clips_leave_it_out(
    finished: Finished, toy: ModuleType, tmp_path: Path
) -> None:
    manifest = RunFolder(finished[0]).sentences()
    stores = {"spatial": MemoryFeatures({"other": np.zeros((2, 3), np.float16)})}
    assert prior.mean_features(tmp_path, toy.pipeline(), manifest, stores) is None
