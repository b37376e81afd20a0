"""What a page claims of a variant: that it differs from the base, or that this is not known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from spamo_cache.config import Axis
from spamo_cache.report.experiment_section import _curve
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


def test_a_variant_may_be_held_against_another_than_the_base() -> None:
    found = Experiment(name="which", question="Which?", paper="", axis=None, variants=(
        variant("base", {0: 10, 1: 11, 2: 10}),
        variant("less", {0: 24, 1: 25, 2: 25}),
        replace(variant("pretrained", {0: 10, 1: 11, 2: 10}), against="less"),
    ))  # fmt: skip
    assert found.verdict(told=True) == ["less", "pretrained"]
    assert found.tests["pretrained"].difference == -found.tests["less"].difference > 0
    assert found.against == {"pretrained": "less"}


def test_a_group_counts_its_variants_and_their_runs() -> None:
    folds = [replace(variant(name, {0: 10, 1: 11}), group="folds") for name in ("one", "two")]
    ran = [
        replace(one, trials=tuple(replace(t, run=cast("Any", object())) for t in one.trials))
        for one in folds
    ]
    found = Experiment(name="which", question="Which?", paper="", axis=None, variants=tuple(ran))
    assert found.groups[0].label == "mean and standard deviation of 2 variants, 4 runs"
    assert [one.name for one in found.members["folds"]] == ["one", "two"]


def test_groups_on_an_axis_are_curves_and_have_no_mean() -> None:
    def point(name: str, group: str, x: float) -> Variant:
        scores = SimpleNamespace(metrics={"bleu4": 10 * x}, intervals={"bleu4": (0.0, 1.0)})
        trial = Trial(seed=0, error=None, run=cast("Any", object()), evaluation=cast("Any", scores))
        return Variant(
            name=name,
            label=name,
            x=x,
            set={"train_fraction": x},
            eval_spec_set={},
            trials=(trial,),
            group=group,
        )

    listed = [
        point(f"{group}-{x}", group, x) for group in ("scratch", "pretrained") for x in (0.5, 1)
    ]
    found = Experiment(
        name="which",
        question="Which?",
        paper="",
        axis=Axis(label="share"),
        variants=tuple(listed),
    )
    drawn = _curve(found, listed)
    assert list(drawn.groups) == ["scratch", "pretrained"]
    assert "Dashed" not in drawn.note, "one law for two curves"
    assert found.groups == []
