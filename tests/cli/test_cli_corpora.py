"""A run on several corpora by the command line: from what is missing to its page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import Result

Call = Callable[..., Result]

EXTRACT = "extract --manifest manifest.csv --spec spec.yaml --executor serial"
TRAIN = "train pipeline.yaml --set corpora=[frames,coast] --set log=[] -o runs/both"


@pytest.mark.slow
def test_two_corpora_are_trained_on_and_one_is_scored(extracted: Path, call: Call) -> None:
    missing = call(TRAIN, code=2)
    assert not missing.stdout
    assert "no features of corpus 'coast' yet" in missing.stderr
    assert "spamo-cache extract --dataset coast --manifest FILE" in " ".join(missing.stderr.split())

    weights = extracted / "clip-vision" / "model.safetensors"
    original = weights.read_bytes()
    save_file({name: -one for name, one in load_file(weights).items()}, weights)
    call(f"{EXTRACT} --dataset coast --streams spatial")
    weights.write_bytes(original)
    call(f"{EXTRACT} --dataset coast --streams motion")
    odd = call(TRAIN, code=1)
    assert "stream 'spatial' of coast differs from that of frames in weights_sha256" in odd.stderr
    assert not (extracted / "runs/both").exists()

    call("store rm coast/spatial --yes")
    call(f"{EXTRACT} --dataset coast")
    call(TRAIN)
    about = json.loads((extracted / "runs/both/run.json").read_text())
    assert about["corpora"]["coast"]["clips"] == about["corpora"]["frames"]["clips"] == 6
    call("evaluate runs/both")
    assert json.loads((extracted / "runs/both/evaluation/test.json").read_text())["n"] == 2
    for command in ("evaluate", "analyze"):
        refused = call(f"{command} runs/both --split train", code=2)
        assert "was trained on several corpora" in refused.stderr
    call("report runs/both -o page.html")
    page = (extracted / "page.html").read_text(encoding="utf-8")
    assert "coast: 6 clips, 50% of those drawn" in page
    assert "Corpora trained on" in page
