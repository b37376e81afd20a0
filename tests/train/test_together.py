"""Several processes, or one in several parts, train as one does at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from spamo_cache.errors import ConfigError, SpamoError
from spamo_cache.model.translator import Translator
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.tensors import read_tensors
from spamo_cache.train import loop
from tests.support.launcher import Launch


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
        del one["sha256"], other["sha256"]
        # Of a norm in the hundreds, much is cancelled on the way.
        assert one.pop("gradient_norm", 0) == pytest.approx(other.pop("gradient_norm", 0), rel=1e-3)
        # Of dev, at weights that AdamW has led apart a little.
        assert one.pop("dev_loss", 0) == pytest.approx(other.pop("dev_loss", 0), rel=1e-4)
        assert one == pytest.approx(other, rel=1e-5)


def whole(toy) -> dict:
    """No figure is left to chance, and no sentence is cut."""
    return toy.QUIET | {"decode": {"beams": 1, "max_tokens": 40}}


def in_parts(toy, count: int) -> dict:
    stages = ("align", "translate")
    return whole(toy) | {stage: toy.QUIET[stage] | {"grad_accum_steps": count} for stage in stages}


def apart(toy, count: int) -> dict:
    """No clip meets another one: there is neither batch norm nor VT-Align."""
    cut = in_parts(toy, count)
    return cut | {
        "adapter": {"width": 16, "tcn": "p2"},
        "align": cut["align"] | {"steps": 0},
        "translate": cut["translate"] | {"alpha": 0.0},
    }


def padded(toy) -> dict:
    """Batch norm and VT-Align count the padding, in batches of clips of any length.

    The last of the 16 clips' batches is a smaller one.
    """
    protocol = {"pool_padding": True, "unsorted_batches": True, "mean_of_batches": True}
    stage = {"steps": 5, "batch": 12, "lr": 1e-5, "grad_accum_steps": 2}
    return whole(toy) | {
        "adapter": {"width": 16, "scale": "embeddings", "norm": "batch"},
        "align": stage,
        "translate": stage | {"eval_every": 5},
        "protocol": protocol,
    }


@dataclass(frozen=True)
class Ended:
    returncode: int | None
    stdout: str
    stderr: str


def together(launch: Launch, folder: Path, runs: dict) -> list[Ended]:
    """What two processes came to that train all ``runs`` one after the other."""
    given = (folder / "rendezvous", json.dumps(runs))
    children = [launch("tests.support.train_pair", rank, *given) for rank in range(2)]
    printed = [child.communicate(timeout=240) for child in children]
    return [Ended(child.returncode, *words) for child, words in zip(children, printed, strict=True)]


@pytest.fixture(scope="module")
def pair(toy, launch, tmp_path_factory):
    """Four trainings by two processes, which ended well."""
    folder = tmp_path_factory.mktemp("pair")
    runs = {"whole": whole(toy), "in parts": in_parts(toy, 2), "apart": apart(toy, 2)}
    runs["padded"] = padded(toy)
    ended = together(
        launch, folder, {str(folder / name): changes for name, changes in runs.items()}
    )
    assert not any(child.returncode for child in ended), [child.stderr for child in ended]
    # A thread that is left meets Python's end, and now and then aborts the process.
    assert [child.stdout for child in ended] == ["threads left: 0\n"] * 2
    return folder


@pytest.fixture(scope="module")
def alone(toy, every_step, tmp_path_factory):
    """One process, one part."""
    out = tmp_path_factory.mktemp("alone") / "run"
    toy.run(out, toy.pipeline(**whole(toy)), manifest=toy.uneven())
    return out


@pytest.mark.slow
def test_two_processes_train_as_one(alone, pair):
    check_equal(pair / "whole", alone)
    assert (pair / "whole" / "done.json").exists()


@pytest.mark.slow
def test_parts_of_two_processes_are_those_of_one(toy, pair, tmp_path):
    # Batch norm and VT-Align see a part of all processes: as many clips as one would cut off.
    config = toy.pipeline(**in_parts(toy, 2))
    toy.run(tmp_path / "run", config, manifest=toy.uneven())
    check_equal(pair / "in parts", tmp_path / "run")


@pytest.mark.slow
def test_padding_does_not_hang_on_the_number_of_processes(toy, pair, tmp_path):
    toy.run(tmp_path / "run", toy.pipeline(**padded(toy)), manifest=toy.uneven())
    check_equal(pair / "padded", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 4])
def test_parts_are_weighed_by_their_tokens(toy, pair, tmp_path, parts):
    # Where no clip meets another one, it does not matter how a batch is cut.
    config = toy.pipeline(**apart(toy, parts))
    toy.run(tmp_path / "run", config, manifest=toy.uneven())
    check_equal(pair / "apart", tmp_path / "run")


@pytest.mark.slow
def test_nobody_waits_for_a_process_that_cannot_begin(toy, launch, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    first, second = together(launch, tmp_path, {str(tmp_path): toy.QUIET})
    assert (first.returncode, second.returncode) == (2, 2), (first.stderr, second.stderr)
    assert first.stdout.startswith("told is not empty and holds no run")
    assert second.stdout.startswith("heard is not empty and holds no run")


@pytest.mark.slow
def test_nobody_waits_for_a_folder_that_is_being_trained_into(toy, launch, tmp_path):
    with RunFolder(tmp_path / "run").alone():
        first, second = together(launch, tmp_path, {str(tmp_path / "run"): toy.QUIET})
    assert (first.returncode, second.returncode) == (2, 2), (first.stderr, second.stderr)
    assert first.stdout.startswith("told is in use by another process")


@pytest.mark.slow
def test_checkpointing_changes_nothing_but_memory(toy, tmp_path, monkeypatch):
    stage = {"steps": 4, "batch": 8, "lr": 1e-3}
    kept = {}
    for name in ("plain", "checkpointed"):
        config = toy.pipeline(align=stage, translate=stage | {"checkpointing": name != "plain"})
        kept[name] = saved_bytes(monkeypatch, lambda: toy.run(tmp_path / name, config))  # noqa: B023
    check_equal(tmp_path / "checkpointed", tmp_path / "plain")
    assert kept["checkpointed"] < 0.7 * kept["plain"]


@pytest.mark.slow
def test_a_full_memory_is_saved_from_there_on(toy, tmp_path, monkeypatch):
    stage = {"steps": 3, "batch": 8, "lr": 1e-3, "grad_accum_steps": 2}
    config = toy.pipeline(align=stage | {"steps": 0}, translate=stage)
    toy.run(tmp_path / "plain", config)
    descend = loop.Trainer._descend

    def short(self, *given):
        found = descend(self, *given)
        if self.state.step == 1 and not self.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(loop.Trainer, "_descend", short)
    told: list[str] = []
    summary = toy.run(tmp_path / "short", config, notice=told.append)
    assert summary.checkpointing
    assert "memory of cpu is full in step 2: from here on" in told[-1]
    check_equal(tmp_path / "short", tmp_path / "plain")
    plain, after = (read_tensors(RunFolder(tmp_path / n).weights())[0] for n in ("plain", "short"))
    means = [name for name in plain if name.endswith(("running_mean", "running_var"))]
    assert means
    for name in means:
        torch.testing.assert_close(after[name], plain[name])
    never = toy.pipeline(align=stage | {"steps": 0}, translate=stage | {"checkpointing": False})
    with pytest.raises(SpamoError, match="memory of cpu is full") as raised:
        toy.run(tmp_path / "never", never)
    assert "translate.grad_accum_steps (now 2)" in str(raised.value)


def saved_bytes(monkeypatch, work) -> int:
    """What steps of translation hold for the way back, at the most."""
    most, forward = 0, Translator.forward

    def measured(self, batch, *, phase, **options):
        nonlocal most
        held = 0

        def pack(value):
            nonlocal held
            held += value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            losses = forward(self, batch, phase=phase, **options)
        most = max(most, held if phase == "translate" else 0)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Translator, "forward", measured)
        work()
    return most


@pytest.mark.slow
def test_bfloat16_is_used_where_it_is_asked_for(toy, alone, tmp_path):
    config = toy.pipeline(**whole(toy), precision="bfloat16")
    toy.run(tmp_path / "run", config, manifest=toy.uneven())
    found, expected = lines(tmp_path / "run")[-2], lines(alone)[-2]
    assert found["lm"] != expected["lm"]
    assert found["lm"] == pytest.approx(expected["lm"], rel=0.05)


@pytest.mark.slow
def test_a_batch_that_cannot_be_cut_is_named(toy, tmp_path):
    uneven = toy.pipeline(align={"steps": 1, "batch": 4, "lr": 1e-3, "grad_accum_steps": 3})
    with pytest.raises(ConfigError, match="multiple of 3"):
        toy.run(tmp_path / "run", uneven)
    later = toy.pipeline(translate={"steps": 1, "batch": 4, "lr": 1e-3, "grad_accum_steps": 3})
    with pytest.raises(ConfigError, match="multiple of 3"):
        toy.run(tmp_path / "later", later)
    # VT-Align was not trained for nothing.
    assert not (tmp_path / "later" / "metrics.jsonl").exists()
