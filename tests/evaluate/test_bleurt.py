from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spamo_cache.errors import WeightsError
from spamo_cache.evaluate import bleurt

FOLDER = Path(__file__).parents[1] / "golden" / "bleurt"
GOLDEN = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))
TEXTS = (GOLDEN["hypotheses"], GOLDEN["references"], torch.device("cpu"))


@pytest.fixture
def pickled(tmp_path):
    """The same weights as the hub has them."""
    folder = tmp_path / "BLEURT"
    shutil.copytree(FOLDER, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_equals_the_package_bleurt_pytorch():
    """Random weights in its own layout; it scored the same pairs one by one, without padding."""
    found = bleurt.bleurt(FOLDER, *TEXTS)
    assert found.per_clip == pytest.approx([100 * score for score in GOLDEN["scores"]], abs=1e-3)
    assert "BLEURT-20" in found.signature


def test_reads_the_hubs_file(pickled):
    assert bleurt.bleurt(pickled, *TEXTS).score == bleurt.bleurt(FOLDER, *TEXTS).score


def test_refuses_what_is_no_bleurt(pickled):
    (pickled / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds no BLEURT"):
        bleurt.bleurt(pickled, *TEXTS)


def test_weights_that_were_never_fetched_are_none():
    assert bleurt.find() is None


def test_a_pickle_that_asks_for_code_is_refused(pickled: Path) -> None:
    torch.save({"weight": Path("x")}, pickled / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="is a pickle that asks for"):
        bleurt.bleurt(pickled, *TEXTS)
