"""One file, several experiments."""

from __future__ import annotations

import pytest

from spamo_cache.errors import ConfigError, UsageError
from spamo_cache.train import seeded, spread, variants


def test_a_sweep_is_a_run_for_each_combination(toy):
    swept = toy.pipeline(sweep={"translate.lr": [1e-4, 3e-4], "streams": [["spatial"], ["motion"]]})
    found = variants(swept)
    assert [run.name for run in found] == [
        "toy-lr-0.0001-streams-spatial",
        "toy-lr-0.0001-streams-motion",
        "toy-lr-0.0003-streams-spatial",
        "toy-lr-0.0003-streams-motion",
    ]
    assert [run.translate.lr for run in found] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert found[1].streams == ("motion",)
    # Alone, each is a plain pipeline: as if written without the sweep.
    assert found[0] == toy.pipeline(
        name=found[0].name,
        streams=["spatial"],
        translate={"steps": 40, "batch": 4, "lr": 1e-4, "eval_every": 15},
    )


def test_seeds_go_by_their_number(toy):
    found = seeded(toy.pipeline(seed=4), 2)
    assert [(run.name, run.seed) for run in found] == [("toy-4", 4), ("toy-5", 5)]
    assert found[0] == toy.pipeline(name="toy-4", seed=4)


def test_without_either_it_is_the_pipeline_itself(toy):
    assert variants(toy.pipeline()) == [toy.pipeline()]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("translate.rl", 1e-4, "nearest is 'lr'"), ("align.lr", "fast", "align.lr")],
)
def test_what_does_not_fit_is_named(toy, key, value, named):
    with pytest.raises(ConfigError, match=named):
        variants(toy.pipeline(sweep={key: [value]}))


def test_a_sweep_is_not_trained_as_one(toy, tmp_path):
    with pytest.raises(UsageError, match="variants"):
        toy.run(tmp_path / "run", toy.pipeline(sweep={"seed": [1, 2]}))


def test_spread_is_mean_and_sample_deviation():
    found = spread("toy", [1.0, 2.0, 6.0])
    assert (found.runs, found.mean) == (3, 3.0)
    assert found.deviation == pytest.approx(7**0.5)
    assert spread("toy", [5.0]).deviation == 0
