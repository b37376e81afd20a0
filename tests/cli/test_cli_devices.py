"""The device that a command names is the one that every stage computes on."""

from __future__ import annotations

import pytest

from spamo_cache.errors import SpamoError
from spamo_cache.train import run


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reproduce -o out --pipeline pipeline.yaml", "train -o out"])
def test_training_hears_of_the_device(lab, call, monkeypatch, command):
    call("extract -d frames --manifest manifest.csv --spec spec.yaml --executor serial")
    asked = []

    def gather(_, device):
        asked.append(device)
        raise SpamoError("far enough")

    monkeypatch.setattr(run, "make_accelerator", gather)
    rest = "frames --executor serial" if "reproduce" in command else "pipeline.yaml"
    call(f"{command} {rest} --manifest manifest.csv --device cpu", code=1)
    assert asked == ["cpu"]
