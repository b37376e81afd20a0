"""A run written as the official release's checkpoint, and such a checkpoint as a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

Call = Callable[..., Result]

pytestmark = pytest.mark.slow


def test_a_run_goes_out_and_comes_back(lab: Path, call: Call) -> None:
    call("extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial")
    call("train pipeline.yaml -o first")
    assert "out.ckpt" in call("train --export-official out.ckpt -o first").stdout
    assert "logit_scale" in torch.load(lab / "out.ckpt", weights_only=True)["state_dict"]
    call("train pipeline.yaml --import-official out.ckpt -o second")
    assert not (lab / "second" / "imported-llm").exists()
    weights = [(lab / run / "model.safetensors").read_bytes() for run in ("first", "second")]
    assert weights[0] == weights[1]
    scores = [
        json.loads(call(f"evaluate {run} --json").stdout)["metrics"] for run in ("first", "second")
    ]
    assert scores[0] == scores[1]
    assert "there already" not in call("train pipeline.yaml -o second").stdout
    assert "there already" in call("train pipeline.yaml -o second").stdout


def test_another_file_is_no_checkpoint(lab: Path, call: Call) -> None:
    call("extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial")
    result = call("train pipeline.yaml --import-official spec.yaml -o run", code=1)
    assert "checkpoint" in result.stderr
    assert not (lab / "run").exists()
