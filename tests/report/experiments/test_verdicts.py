"""What a page claims of a variant: that it differs from the base, or that this is not known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from spamo_cache.report.experiments import Experiment, Trial, Variant

SENTENCES = [f"am {day} regnet es im {place}" for day in "abcdefgh" for place in "stuvw"]


def variant(name: str, wrong: dict[int, int], clips: int = len(SENTENCES)) -> Variant:
    """Seed -> how many of its translations are wrong; the first ``clips`` are scored."""
    trials = tuple(Trial(seed=seed, error=None, run=None, evaluation=card(seed, count, clips))
                   for seed, count in wrong.items())  # fmt: skip
    changes = {} if name == "base" else {"seed": name}
    return Variant(name=name, label=name, x=None, set=changes, eval_spec_set={}, trials=trials)


def card(seed: int, wrong: int, clips: int) -> Any:
    lines = [
        SimpleNamespace(id=str(n), reference=text, hypothesis=text if (n + seed) % 40 >= wrong
                        else "in der nacht bleibt es klar")
        for n, text in enumerate(SENTENCES[:clips])
    ]  # fmt: skip
    return cast("Any", SimpleNamespace(lines=lines, headline={"tokenize": "13a"}))


def test_a_claim_stands_where_seeds_and_clips_bear_it() -> None:
    found = Experiment(name="which", question="Which?", paper="", axis=None, variants=(
        variant("base", {0: 10, 1: 11, 2: 10}),
        variant("worse", {0: 24, 1: 25, 2: 25}),
        variant("alike", {0: 11, 1: 10, 2: 12}),
        variant("swings", {0: 10, 1: 26, 2: 16}),
        variant("fewer-clips", {0: 24, 1: 25, 2: 25}, clips=30),
        variant("one-seed", {0: 24}),
        variant("other-seeds", {7: 24}),
    ))  # fmt: skip
    assert found.verdict(told=True) == ["worse", "one-seed"]
    assert found.verdict(told=False) == ["alike", "swings"]
    seeds = {name: test.seeds for name, test in found.tests.items()}
    assert seeds == {"worse": 3, "alike": 3, "swings": 3, "one-seed": 1}
