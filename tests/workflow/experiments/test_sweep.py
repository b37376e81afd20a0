"""One file, several runs: seeds and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest

from spamo_cache.config import Pipeline, parse
from spamo_cache.config.loading import _override
from spamo_cache.errors import ConfigError, UsageError
from spamo_cache.metrics import spread
from spamo_cache.workflow.experiments.plan import Load, Planned, swept
from tests.support.pipelines import BASE


def loader(**changes: Any) -> Load:
    def load(overrides: Sequence[str]) -> Pipeline:
        document = deepcopy({**BASE, **changes})
        for text in overrides:
            _override(document, text)
        return parse(document, Pipeline, where="test")

    return load


def runs(seeds: int | None = None, **changes: Any) -> dict[str, list[Planned]]:
    load = loader(**changes)
    return swept(load([]), load, seeds)


def test_a_sweep_is_a_run_for_each_combination() -> None:
    found = runs(sweep={"translate.lr": [1e-4, 3e-4], "streams": [["spatial"], ["motion"]]})
    assert list(found) == [
        "toy-lr-0.0001-streams-spatial",
        "toy-lr-0.0001-streams-motion",
        "toy-lr-0.0003-streams-spatial",
        "toy-lr-0.0003-streams-motion",
    ]
    pipelines = [run.pipeline for (run,) in found.values()]
    assert [one.translate.lr for one in pipelines] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert pipelines[1].streams == ("motion",)
    # Alone, each is a plain pipeline: as if written without the sweep.
    translate = {**BASE["translate"], "lr": 1e-4}
    plain = loader(name=pipelines[0].name, streams=["spatial"], translate=translate)
    assert pipelines[0] == plain([])
    assert {run.name: run.pipeline.name for (run,) in found.values()} == {
        name: name for name in found
    }


def test_a_sweep_may_be_over_seeds_or_what_runs_start_from() -> None:
    assert [run.pipeline.seed for (run,) in runs(sweep={"seed": [3, 5]}).values()] == [3, 5]
    started = [run for (run,) in runs(sweep={"init_from": ["runs/a", "runs/b"]}).values()]
    assert [run.pipeline.init_from for run in started] == ["runs/a", "runs/b"]
    assert len({run.key for run in started}) == 2


def test_seeds_go_by_their_number() -> None:
    (found,) = runs(2, seed=4).values()
    assert [(run.name, run.pipeline.seed) for run in found] == [("toy-4", 4), ("toy-5", 5)]
    assert found[0].pipeline == loader(seed=4)([])


def test_without_either_it_is_the_pipeline_itself() -> None:
    ((run,),) = runs().values()
    assert (run.name, run.pipeline) == ("toy", loader()([]))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("translate.rl", 1e-4, "nearest is 'lr'"), ("align.lr", "fast", "align.lr")],
)
def test_what_does_not_fit_is_named(key: str, value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        runs(sweep={key: [value]})


def test_a_sweep_is_not_trained_as_one(tmp_path: Any) -> None:
    from tests.support import toy

    with pytest.raises(UsageError, match="several experiments"):
        toy.run(tmp_path / "run", toy.pipeline(sweep={"seed": [1, 2]}))


def test_spread_is_mean_and_sample_deviation() -> None:
    found = spread("toy", [1.0, 2.0, 6.0])
    assert (found.runs, found.mean) == (3, 3.0)
    assert found.deviation == pytest.approx(7**0.5)
    assert spread("toy", [5.0]).deviation == 0
