"""Several processes, or one in several parts, train as one does at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spamo_cache.errors import ConfigError
from spamo_cache.model.translator import Translator
from spamo_cache.train import loop

PROGRAM = Path(__file__).with_name("pair.py")


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def every_step():
    """Each step is a line of metrics, as in the two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        yield


def check_equal(found: Path, expected: Path) -> None:
    """All steps had the same losses; a step goes by the weights that those before it left."""
    for one, other in zip(lines(found), lines(expected), strict=True):
        assert one.pop("stage") == other.pop("stage")
        # Of a norm in the hundreds, much is cancelled on the way.
        assert one.pop("gradient_norm", 0) == pytest.approx(other.pop("gradient_norm", 0), rel=1e-3)
        assert one == pytest.approx(other, rel=1e-5)


@pytest.fixture(scope="module")
def alone(toy, every_step, tmp_path_factory):
    """One process, one part."""
    out = tmp_path_factory.mktemp("alone") / "run"
    toy.run(out, toy.pipeline(**toy.QUIET))
    return out


def test_two_processes_train_as_one(alone, tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), tmp_path / "rendezvous", tmp_path / "run"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [child.communicate(timeout=120)[1].decode() for child in children]
    assert not any(child.returncode for child in children), errors
    check_equal(tmp_path / "run", alone)
    assert (tmp_path / "run" / "done.json").exists()


def test_parts_are_weighed_by_their_tokens(toy, alone, tmp_path):
    # Batch norm and VT-Align see a part only: without them parts come to the same as the whole.
    plain = toy.QUIET | {
        "adapter": {"width": 16, "tcn": "p2"},
        "align": {"steps": 0, "batch": 8, "lr": 1e-4},
        "decode": {"beams": 1, "max_tokens": 40},
    }
    made, _ = toy.corpus()
    clips = [
        replace(clip, text=" ".join(clip.text.split()[: 1 + number % 4]))
        for number, clip in enumerate(made.clips())
    ]
    uneven = type(made).from_clips("toy", clips)
    for parts in (1, 4):
        stage = {"steps": 5, "batch": 8, "lr": 1e-5, "alpha": 0.0, "accumulate": parts}
        toy.run(
            tmp_path / str(parts), toy.pipeline(**plain | {"translate": stage}), manifest=uneven
        )
    check_equal(tmp_path / "4", tmp_path / "1")


def test_checkpointing_changes_nothing_but_memory(toy, tmp_path, monkeypatch):
    stage = {"steps": 4, "batch": 8, "lr": 1e-3}
    kept = {}
    for name in ("plain", "checkpointed"):
        config = toy.pipeline(align=stage, translate=stage | {"checkpointing": name != "plain"})
        kept[name] = saved_bytes(monkeypatch, lambda: toy.run(tmp_path / name, config))  # noqa: B023
    check_equal(tmp_path / "checkpointed", tmp_path / "plain")
    assert kept["checkpointed"] < 0.7 * kept["plain"]


def saved_bytes(monkeypatch, work) -> int:
    """What steps of translation hold for the way back, at the most."""
    most, forward = 0, Translator.forward

    def measured(self, batch, *, stage, **options):
        nonlocal most
        held = 0

        def pack(value):
            nonlocal held
            held += value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            losses = forward(self, batch, stage=stage, **options)
        most = max(most, held if stage == "translate" else 0)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Translator, "forward", measured)
        work()
    return most


def test_bfloat16_is_used_where_it_is_asked_for(toy, alone, tmp_path):
    toy.run(tmp_path / "run", toy.pipeline(**toy.QUIET, precision="bfloat16"))
    found, expected = lines(tmp_path / "run")[-2], lines(alone)[-2]
    assert found["lm"] != expected["lm"]
    assert found["lm"] == pytest.approx(expected["lm"], rel=0.05)


def test_a_batch_that_cannot_be_cut_is_named(toy, tmp_path):
    uneven = toy.pipeline(align={"steps": 1, "batch": 4, "lr": 1e-3, "accumulate": 3})
    with pytest.raises(ConfigError, match="multiple of 3"):
        toy.run(tmp_path / "run", uneven)
