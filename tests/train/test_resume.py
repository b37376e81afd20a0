"""A killed run, resumed, ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.train.loop import Trainer


class KilledError(Exception):
    pass


def results(run: Path, *names: str) -> dict[str, bytes]:
    names = names or ("model.safetensors", "metrics.jsonl", "config.yaml", "run.json")
    return {name: (run / name).read_bytes() for name in names}


PLACES = {"align": (3, 17, 20), "translate": (1, 16, 29, 30, 40)}


@pytest.mark.slow
@pytest.mark.parametrize("place", [(stage, step) for stage in PLACES for step in PLACES[stage]])
def test_resumed_equals_uninterrupted(toy, finished, tmp_path, monkeypatch, place):
    after = Trainer._after

    def killed(self, now, config, optimiser):
        stop = after(self, now, config, optimiser)
        if (now, self.state.step) == place:
            raise KilledError
        return stop

    monkeypatch.setattr(Trainer, "_after", killed)
    with pytest.raises(KilledError):
        toy.run(tmp_path / "run")
    monkeypatch.undo()
    summary = toy.run(tmp_path / "run")
    assert results(tmp_path / "run") == results(finished[0])
    assert summary.best_bleu == finished[1].best_bleu
    assert not (tmp_path / "run" / "resume.safetensors").exists()


@pytest.mark.slow
def test_resumes_after_sigkill(toy, finished, launch, tmp_path):
    child = launch("tests.support.toy", tmp_path / "run", "translate", "30")
    assert child.wait(120) == -signal.SIGKILL, child.communicate()
    assert not (tmp_path / "run" / "done.json").exists()
    toy.run(tmp_path / "run")
    assert results(tmp_path / "run") == results(finished[0])


@pytest.mark.slow
def test_goes_on_with_other_curves(toy, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_end_align", lambda _: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        toy.run(tmp_path / "run")
    monkeypatch.undo()
    toy.run(tmp_path / "run", toy.pipeline(log=["tensorboard"]))
    assert results(tmp_path / "run") == results(finished[0])
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert toy.run(tmp_path / "run", toy.pipeline(name="another", question="why?")).reused


@pytest.mark.slow
def test_refuses_to_go_on_with_other_features(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_end_align", lambda _: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        toy.run(tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "resume.safetensors").exists()
    _, stores = toy.corpus()
    stores["spatial"]._arrays["dev/0"] = stores["spatial"]._arrays["dev/0"] + 1
    before = results(tmp_path / "run", "metrics.jsonl", "run.json", "resume.safetensors")
    with pytest.raises(UsageError, match=r"stores\.spatial"):
        toy.run(tmp_path / "run", stores=stores)
    assert before == results(tmp_path / "run", *before)


@pytest.mark.usefixtures("real_sync")
def test_kill_while_writing_leaves_the_old_state(tmp_path, monkeypatch):
    from spamo_cache import io

    target = tmp_path / "state"
    io.write_atomic(target, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        io.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


NAMES = ("config.yaml", "manifest.parquet", "run.json", "metrics.jsonl", "resume.safetensors")


@pytest.mark.slow
def test_a_flipped_bit_in_an_unfinished_run_is_refused(toy, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(Trainer, "_end_align", lambda _: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        toy.run(run)
    for name in NAMES:
        data = (run / name).read_bytes()
        for place in (0, len(data) // 3, len(data) // 2, len(data) - 2):
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            (run / name).write_bytes(damaged)
            with pytest.raises(SpamoError) as caught:
                toy.run(run)
            assert name in str(caught.value)
        (run / name).write_bytes(data)
    with pytest.raises(KilledError):  # as it was, it goes on to where it is killed again
        toy.run(run)


def test_equal_weights_and_state_are_equal_bytes(tmp_path):
    """safetensors writes several entries of a header in an order of chance."""
    import torch

    from spamo_cache.runs.tensors import write_tensors

    for number in range(8):
        write_tensors(tmp_path / f"{number}", {"a": torch.ones(2)}, {"place": "{}"})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
