"""One reading of ``--device``, before any work."""

from __future__ import annotations

import pytest
import torch

from spamo_cache import devices
from spamo_cache.config import Pipeline
from spamo_cache.errors import UsageError
from spamo_cache.runs.load import load_run
from spamo_cache.train.distributed import make_accelerator
from spamo_cache.workflow.experiments import processes


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see so many GPUs."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "tpu"])
def test_another_word_is_refused(gpus, name):
    gpus(2)
    with pytest.raises(UsageError, match="unknown device") as raised:
        devices.resolve(name)
    assert "cuda:N" in str(raised.value)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(gpus, name):
    gpus(0)
    with pytest.raises(UsageError, match="no CUDA device is available"):
        devices.resolve(name)
    gpus(2)
    assert devices.resolve(name) == name
    with pytest.raises(UsageError, match="no CUDA device 2"):
        devices.resolve("cuda:2")


def test_auto_is_the_gpu_where_there_is_one(gpus):
    gpus(0)
    assert devices.resolve("auto") == "cpu"
    gpus(1)
    assert devices.resolve("auto") == "cuda"
    assert devices.resolve("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_runs_and_trainings_ask_the_same(gpus, tmp_path, name):
    gpus(0)
    with pytest.raises(UsageError, match="device"):
        load_run(tmp_path, device=name)
    with pytest.raises(UsageError, match="device"):
        make_accelerator(Pipeline.model_construct(), name)


def test_one_gpu_is_not_for_several_processes(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="cannot share cuda:1"):
        make_accelerator(Pipeline.model_construct(), "cuda:1")


def test_children_are_kept_to_the_gpu_that_was_named(gpus, monkeypatch):
    gpus(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    seen = {
        name: [place["CUDA_VISIBLE_DEVICES"] for place in processes.worker_envs(None, None, name)]
        for name in ("auto", "cuda", "cuda:1", "cpu")
    }
    assert seen["auto"] == seen["cuda"] == ["4", "5", "6"]
    assert seen["cuda:1"] == ["5"]
    assert set(seen["cpu"]) == {""}
