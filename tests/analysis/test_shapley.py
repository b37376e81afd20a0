from __future__ import annotations

import random
from pathlib import Path

import pytest

from spamo_cache import io
from spamo_cache.analysis.shapley import RUNS, coalitions, of_experiments, shapley
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.runs.contributions import read_contributions
from spamo_cache.runs.records import Scorecard, keep_card

# nobody and VT-Align alone: 1; hand-computed below.
SCORES = {
    "streams/floor": 1.0,
    "streams/spatial-no-align": 11.0,
    "streams/motion-no-align": 5.0,
    "align/none": 13.0,
    "streams/spatial": 15.0,
    "streams/motion": 6.0,
    "streams/both": 20.0,
}


def test_gloves_are_divided_as_shapley_did_by_hand() -> None:
    """One left glove, two right ones; a pair is worth 1."""
    players = ["left", "right 1", "right 2"]
    worth = {some: float("left" in some and len(some) > 1) for some in coalitions(players)}
    assert shapley(players, worth) == pytest.approx(
        {"left": 4 / 6, "right 1": 1 / 6, "right 2": 1 / 6}
    )


def test_values_are_efficient_symmetric_and_nothing_for_a_dummy() -> None:
    rng = random.Random(0)
    players = ["a", "b", "c", "dummy"]
    base = {some: rng.uniform(0, 10) for some in coalitions(["twins", "c"])}

    def worth(some: frozenset[str]) -> float:
        """a and b are interchangeable, the dummy changes nothing."""
        twins = len(some & {"a", "b"})
        rest = base[frozenset({"twins"} if twins else set()) | (some & {"c"})]
        return rest * (1 + 0.3 * twins)

    game = {some: worth(some) for some in coalitions(players)}
    values = shapley(players, game)
    assert sum(values.values()) == pytest.approx(game[frozenset(players)] - game[frozenset()])
    assert values["a"] == pytest.approx(values["b"])
    assert values["dummy"] == pytest.approx(0.0)
    assert values["c"] != pytest.approx(values["a"])


def card(score: float, half: float) -> Scorecard:
    """A scorecard on test with this BLEU-4."""
    return Scorecard(
        run="run", name="test", split="test", protocol="default", n=1,
        metrics={"bleu4": score}, intervals={"bleu4": (score - half, score + half)},
        signatures={}, bootstrap={}, headline={}, conventions=[], warnings=[], published=[],
        failed={}, shuffled=False, changed={}, stores={}, identity="i",
    )  # fmt: skip


def experiments(
    folder: Path,
    scores: dict[int, dict[str, float]],
    half: float = 1.0,
    failed: dict[tuple[str, int], str] | None = None,
) -> Path:
    """A folder of results: seed -> variant -> BLEU-4."""
    listed: dict[str, dict[str, list[dict[str, object]]]] = {}
    for seed, by_variant in scores.items():
        for variant, score in by_variant.items():
            experiment, name = variant.split("/")
            place = folder.parent / f"{experiment}-{name}-{seed}"
            place.mkdir()
            keep_card(place, card(score, half), [])
            run = {
                "seed": seed,
                "path": f"../{place.name}",
                "evaluation": "test",
                "error": (failed or {}).get((variant, seed)),
            }
            listed.setdefault(experiment, {}).setdefault(name, []).append(run)
    found = [
        {
            "name": one,
            "question": "?",
            "variants": [
                {"name": name, "label": name, "runs": runs} for name, runs in them.items()
            ],
        }
        for one, them in listed.items()
    ]
    folder.mkdir()
    results = {"corpus": "c", "set": [], "seeds": list(scores), "experiments": found}
    io.write_json(folder / "results.json", results)
    return folder


def test_components_of_the_method_by_hand(tmp_path: Path) -> None:
    folder = experiments(tmp_path / "experiments", {0: SCORES})
    found = of_experiments(folder)
    assert found.values == pytest.approx(
        {
            "SE": 10 / 3 + 8 / 6 + 14 / 6 + 14 / 3,
            "ME": 4 / 3 + 2 / 6 + 5 / 6 + 5 / 3,
            "VT-Align": 0 / 3 + 4 / 6 + 1 / 6 + 7 / 3,
        }
    )
    assert sum(found.values.values()) == pytest.approx(found.total - found.floor)
    assert read_contributions(folder / "shapley.json") == found
    nobody = [one for one in found.coalitions if one.run == "streams/floor"]
    assert [one.players for one in nobody] == [[], ["VT-Align"]]
    assert all("floor" in (one.note or "") for one in nobody)
    assert [one.note for one in found.coalitions if one not in nobody] == [None] * 6


def test_errors_of_one_seed_count_the_floor_once(tmp_path: Path) -> None:
    """For VT-Align it stands on both sides, and is no uncertainty at all."""
    errors = of_experiments(experiments(tmp_path / "experiments", {0: SCORES})).errors
    assert errors["VT-Align"] == pytest.approx((4 / 36 + 2 / 9) ** 0.5)
    assert errors["SE"] == pytest.approx((1 / 4 + 3 / 9 + 3 / 36) ** 0.5)


def test_errors_of_several_seeds_are_their_spread(tmp_path: Path) -> None:
    better = {run: score + (6 if run == "streams/both" else 0) for run, score in SCORES.items()}
    found = of_experiments(experiments(tmp_path / "experiments", {0: SCORES, 7: better}))
    assert found.seeds == [0, 7]
    assert found.total == 23.0
    # A third of the 6 points goes to each part in seed 7, none in seed 0.
    assert found.errors == pytest.approx(dict.fromkeys(found.players, 2**0.5))
    assert "2 seeds" in found.spread


def test_a_seed_that_lacks_runs_is_left_out(tmp_path: Path) -> None:
    part = {run: SCORES[run] for run in list(SCORES)[:3]}
    found = of_experiments(experiments(tmp_path / "experiments", {0: SCORES, 1: part}))
    assert found.seeds == [0]


def test_missing_runs_are_named_in_one_error(tmp_path: Path) -> None:
    scores = {0: {run: score for run, score in SCORES.items() if run != "align/none"}}
    failed = {("streams/motion", 0): "no motion features"}
    folder = experiments(tmp_path / "experiments", scores, failed=failed)
    (tmp_path / "streams-spatial-0" / "evaluation" / "test.json").unlink()
    with pytest.raises(UsageError) as caught:
        of_experiments(folder)
    assert "align/none of seed 0: not among the results" in caught.value.what
    assert "streams/motion of seed 0: no motion features" in caught.value.what
    assert "streams/spatial of seed 0: not tested" in caught.value.what
    assert "streams/both" not in caught.value.what
    assert not (folder / "shapley.json").exists()


def test_every_coalition_has_a_run_and_results_must_be_there(tmp_path: Path) -> None:
    assert set(RUNS) == set(coalitions(("SE", "ME", "VT-Align")))
    with pytest.raises(UsageError, match="no results"):
        of_experiments(tmp_path)


def test_another_document_in_its_place_is_one_clear_error(tmp_path: Path) -> None:
    io.write_json(tmp_path / "shapley.json", {"metric": "bleu4", "seeds": ["first"]})
    with pytest.raises(SpamoError, match=r"holds no Shapley values: seeds\.0: "):
        read_contributions(tmp_path / "shapley.json")
