"""TensorBoard and W&B show what stands in ``metrics.jsonl``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from spamo_cache.errors import MissingLibraryError
from spamo_cache.runs.folder import RunFolder
from spamo_cache.train.loop import Trainer
from spamo_cache.train.monitoring import MLflow

SMALL = {"steps": 20, "batch": 4, "lr": 1e-3}


def lines(run):
    return RunFolder(run).read_metrics()


def drawn(run):
    """Tag -> [(step, value)] of a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.slow
def test_tensorboard_shows_every_line_once_even_after_a_kill(toy, tmp_path, monkeypatch):
    config = toy.pipeline(align=SMALL, translate=SMALL, log=["tensorboard"])
    tmp_path.chmod(0o2775)  # shared by a group, whose members go on with each other's runs
    after = Trainer._after

    def killed(self, stage, *rest):
        if (stage, self.state.step) == ("translate", 15):
            raise KeyboardInterrupt
        return after(self, stage, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after", killed)
        with pytest.raises(KeyboardInterrupt):
            toy.run(tmp_path / "run", config)
    toy.run(tmp_path / "run", config)
    found = drawn(tmp_path / "run")
    for tag, points in found.items():
        stage, _, name = tag.partition("/")
        wanted = [
            (line.step, pytest.approx(line.values[name]))
            for line in lines(tmp_path / "run")
            if line.stage == stage and name in line.values
        ]
        assert points == wanted, tag
    assert {"align/loss", "align/dev_recall", "translate/lm", "translate/dev_bleu"} <= found.keys()
    assert (tmp_path / "run" / "tensorboard").stat().st_mode & 0o020


class StubRun:
    def __init__(self, asked):
        self.asked, self.logged, self.metrics, self.finished = asked, [], [], False

    def define_metric(self, name, *, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.mark.slow
def test_wandb_gets_the_lines_and_the_config(toy, tmp_path, monkeypatch):
    runs = []
    stub = ModuleType("wandb")
    stub.init = lambda **asked: runs.append(StubRun(asked)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", stub)
    config = toy.pipeline(align=SMALL, translate=SMALL, log=["wandb"])
    toy.run(tmp_path / "run", config)
    (run,) = runs
    assert run.asked["name"] == "toy"
    assert run.asked["config"]["align"]["lr"] == 1e-3
    assert run.finished
    assert ("align/*", "align/step") in run.metrics
    expected = [
        {
            f"{line.stage}/{name}": value
            for name, value in {"step": line.step, **line.values}.items()
        }
        for line in lines(tmp_path / "run")
    ]
    assert run.logged == expected


def test_a_missing_wandb_is_named(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingLibraryError, match="pip install wandb"):
        toy.run(tmp_path / "run", toy.pipeline(align=SMALL, translate=SMALL, log=["wandb"]))
    assert not (tmp_path / "run").exists()


class StubMLflow(ModuleType):
    """As much of MLflow as is called, which keeps what it is told."""

    def __init__(self):
        super().__init__("mlflow")
        self.begun, self.logged, self.parameters = [], [], {}

    def set_experiment(self, name):
        self.experiment = name

    def search_runs(self, *, filter_string, **_):
        asked = filter_string.rpartition("= ")[2].strip("'")
        same = [run for run in self.begun if run["tags"]["spamo-cache.run"] == asked]
        return [SimpleNamespace(info=SimpleNamespace(run_id=f"id of {asked}")) for _ in same]

    def start_run(self, **asked):
        self.begun.append(asked)

    def log_params(self, values):
        self.parameters |= values

    def log_metrics(self, values, *, step):
        self.logged.append((step, values))

    def end_run(self):
        self.ended = True


@pytest.mark.slow
def test_mlflow_gets_the_lines_and_goes_on_with_its_run(toy, tmp_path, monkeypatch):
    stub = StubMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    none = {**SMALL, "steps": 0}
    config = toy.pipeline(align={**SMALL, "steps": 2}, translate=none, log=["mlflow"])
    toy.run(tmp_path / "run", config)
    (run,) = stub.begun
    assert (stub.experiment, run["run_name"], run["run_id"]) == ("spamo-cache", "toy", None)
    assert stub.parameters["align.lr"] == 1e-3
    assert stub.ended
    assert stub.logged == [
        (line.step, {f"align/{name}": value for name, value in line.values.items()})
        for line in lines(tmp_path / "run")
    ]
    MLflow(config, RunFolder(tmp_path / "run"))
    assert stub.begun[1]["run_id"] == f"id of {run['tags']['spamo-cache.run']}"
