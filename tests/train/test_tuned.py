"""Encoders that are trained with the rest, and runs that begin where others ended."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spamo_cache.errors import DamagedError, UsageError, WeightsError
from spamo_cache.evaluate import evaluate
from spamo_cache.runs.load import load_run
from spamo_cache.train import MemoryFeatures
from spamo_cache.train.features import Bank
from spamo_cache.train.loop import Trainer
from spamo_cache.train.monitoring import StepTimer

pytestmark = pytest.mark.slow

RESULTS = ("model.safetensors", "metrics.jsonl", "config.yaml", "run.json")


class KilledError(Exception):
    pass


class Network(nn.Module):
    """A frozen matrix, one that is learnt, and something left to chance."""

    def __init__(self, values, width):
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        self.register_buffer("frozen", torch.randn(values, width, generator=chance))
        self.learnt = nn.Parameter(torch.zeros(values, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        return self.dropout(pixels.float() / 255) @ (self.frozen + self.learnt)


class ToyFrames:
    """A stream of the toy corpus, its rows as uint8 pixels of which a network makes 5 values."""

    width, dtype = 5, np.dtype(np.uint8)

    def __init__(self, features):
        self._features = features
        self.values = features.width
        self.encoder = Network(features.width, self.width)
        for name in ("fingerprint", "path", "state", "reason", "rows"):
            setattr(self, name, getattr(features, name))

    def read_into(self, ids, buffer):
        rows = np.empty(buffer.shape, self._features.dtype)
        offsets = self._features.read_into(ids, rows)
        buffer[:] = (rows * 32 + 128).clip(0, 255)
        return offsets


@pytest.fixture(scope="module")
def frames(toy):
    return lambda: {name: ToyFrames(store) for name, store in toy.corpus()[1].items()}


@pytest.fixture(scope="module")
def done(toy, frames, tmp_path_factory):
    """An uninterrupted run with tuned encoders, only to be read."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    config = toy.pipeline(encoders={"blocks": 1}, **toy.SHORT)
    return out, toy.run(out, config, stores=frames())


def results(run):
    return {name: (run / name).read_bytes() for name in RESULTS}


def test_the_run_keeps_what_the_encoders_learnt(done):
    tensors = load_file(done[0] / "model.safetensors")
    learnt = {name: value for name, value in tensors.items() if name.startswith("encoders.")}
    assert set(learnt) == {"encoders.spatial.learnt", "encoders.motion.learnt"}
    assert all(bool(value.any()) for value in learnt.values())
    assert done[1].trained >= sum(value.numel() for value in learnt.values())


@pytest.fixture(params=[("align", 10), ("translate", 13), ("translate", 21)])
def killed(request, monkeypatch):
    """Training ends by an exception after this step, until the patch is undone."""
    after = Trainer._after

    def dying(self, now, config, optimiser):
        stop = after(self, now, config, optimiser)
        if (now, self.state.step) == request.param:
            raise KilledError
        return stop

    monkeypatch.setattr(Trainer, "_after", dying)
    return monkeypatch


def test_resumed_equals_uninterrupted(toy, done, frames, tmp_path, killed):
    config = toy.pipeline(encoders={"blocks": 1}, **toy.SHORT)
    with pytest.raises(KilledError):
        toy.run(tmp_path / "run", config, stores=frames())
    killed.undo()
    toy.run(tmp_path / "run", config, stores=frames())
    assert results(tmp_path / "run") == results(done[0])


def test_is_evaluated_from_frames(toy, done, frames):
    manifest, _ = toy.corpus()
    card = evaluate(done[0], "test", manifest=manifest, stores=frames())
    assert card.n == toy.COUNTS["test"]
    dev = evaluate(done[0], "dev", manifest=manifest, stores=frames())
    assert dev.metrics["bleu4"] == pytest.approx(done[1].best_bleu, abs=1e-6)


def test_cannot_be_read_without_its_encoders(toy, done):
    with pytest.raises(UsageError, match="from the corpus's frames"):
        load_run(done[0])
    with pytest.raises(UsageError, match="from the corpus's frames"):
        evaluate(done[0], "test", stores=toy.corpus()[1], bootstrap=7)  # no card of it yet


def test_frames_and_tuning_go_together(toy, frames, tmp_path):
    with pytest.raises(UsageError, match="tuned from frames"):
        toy.run(tmp_path / "run", toy.pipeline(encoders={"blocks": 1}))
    with pytest.raises(UsageError, match="tuned from frames"):
        toy.run(tmp_path / "run", stores=frames())
    assert not (tmp_path / "run").exists()


def test_frames_are_never_kept(toy, frames):
    ids = [f"train/{number}" for number in range(4)]
    bank = Bank(frames(), ids, max_frames=10, memory=1 << 30)
    assert not bank.in_memory
    packed = bank.packed([1, 3])["spatial"]
    assert packed.rows.dtype == torch.uint8
    assert packed.rows.shape == (20, 8)


# --- beginning with another run's weights -------------------------------------------------------


def again(toy, run, **changes):
    """One step from where ``run`` ended, so small that it changes nothing that can be seen."""
    still = {"align": {"steps": 0, "batch": 4, "lr": 1e-3, "center": True}}
    still["translate"] = {"steps": 1, "batch": 4, "lr": 1e-12, "eval_every": 1}
    return toy.pipeline(init_from=str(run), **still | changes)


def test_begins_with_the_weights_of_another_run(toy, finished, tmp_path):
    toy.run(tmp_path / "run", again(toy, finished[0]))
    before, after = (
        load_file(run / "model.safetensors") for run in (finished[0], tmp_path / "run")
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(after[name], value, atol=1e-9, rtol=1e-6)


def test_without_any_step_the_weights_stay_what_they_were(toy, finished, tmp_path):
    run = tmp_path / "run"
    none = {"steps": 0, "batch": 4, "lr": 1e-3}
    toy.run(run, toy.pipeline(init_from=str(finished[0]), align=none, translate=none))
    before, after = (load_file(folder / "model.safetensors") for folder in (finished[0], run))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@torch.no_grad()
def encoded(stream, ids):
    """What a cache would hold of these clips."""
    arrays = {}
    stream.encoder.eval()
    for clip in ids:
        pixels = np.empty((stream.rows(clip), stream.values), np.uint8)
        stream.read_into([clip], pixels)
        arrays[clip] = stream.encoder(torch.from_numpy(pixels)).numpy()
    return MemoryFeatures(arrays)


def test_tuning_begins_with_a_run_of_frozen_encoders(toy, frames, tmp_path):
    ids = [clip.id for clip in toy.corpus()[0].clips()]
    cached = {name: encoded(stream, ids) for name, stream in frames().items()}
    toy.run(tmp_path / "frozen", toy.pipeline(**toy.SHORT), stores=cached)
    config = again(toy, tmp_path / "frozen", encoders={"blocks": 1})
    toy.run(tmp_path / "tuned", config, stores=frames())
    frozen = load_file(tmp_path / "frozen" / "model.safetensors")
    tuned = load_file(tmp_path / "tuned" / "model.safetensors")
    assert tuned.keys() - frozen.keys() == {"encoders.spatial.learnt", "encoders.motion.learnt"}
    torch.testing.assert_close(tuned["align.center"], frozen["align.center"])
    # The other way round there is nowhere to put what the encoders learnt.
    with pytest.raises(WeightsError, match="do not fit"):
        toy.run(tmp_path / "back", again(toy, tmp_path / "tuned"), stores=cached)


def test_the_identity_holds_the_weights_and_not_where_they_lie(toy, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    toy.run(tmp_path / "run", again(toy, finished[0]))
    assert toy.run(tmp_path / "run", again(toy, tmp_path / "moved")).reused
    weights = tmp_path / "moved" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedError, match="is not what the run wrote"):
        toy.run(tmp_path / "run", again(toy, tmp_path / "moved"))


def test_begins_with_a_finished_run_only(toy, finished, tmp_path):
    with pytest.raises(UsageError, match="no finished run"):
        toy.run(tmp_path / "run", again(toy, tmp_path / "nothing"))
    shutil.copytree(finished[0], tmp_path / "unfinished")
    (tmp_path / "unfinished" / "done.json").unlink()
    with pytest.raises(UsageError, match="no finished run"):
        toy.run(tmp_path / "run", again(toy, tmp_path / "unfinished"))


def test_a_run_tells_what_it_took(finished):
    known = json.loads((finished[0] / "done.json").read_text())
    assert known["steps"] == 40
    assert 0 < known["step_seconds"] * known["steps"] < known["seconds"]
    assert 0 < known["waiting"] < 0.5
    assert known["peak_bytes"] > 50 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resource is all there is")
def test_the_peak_is_not_what_the_parent_held(monkeypatch):
    """Linux begins a child's ru_maxrss with that of the process that started it."""
    parents = SimpleNamespace(ru_maxrss=1 << 40)
    monkeypatch.setattr(resource, "getrusage", lambda _: parents)
    assert 50 << 20 < StepTimer(torch.device("cpu")).peak_bytes < 1 << 40
