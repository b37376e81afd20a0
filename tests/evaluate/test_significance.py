from __future__ import annotations

import shutil

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from spamo_cache.evaluate import compare
from spamo_cache.metrics.intervals import (
    SEED,
    _student,
    _tossed,
    difference,
    mean_of,
    seeds_difference,
)
from spamo_cache.metrics.scores import measures
from spamo_cache.runs.records import Scorecard, ScoredClip, keep_card

WORDS = ["am", "tag", "scheint", "die", "sonne", "nacht", "regnet", "es", "im", "norden"]


def texts(error, seed, clips=60):
    """References, and hypotheses of which a share of the words is wrong."""
    chance = np.random.default_rng(seed)
    references = np.random.default_rng(0).choice(WORDS, size=(clips, 8))
    wrong = chance.random(references.shape) < error
    hypotheses = np.where(wrong, "oft", references)
    return [" ".join(line) for line in hypotheses], [" ".join(line) for line in references]


def both(first, second, trials=1000):
    one, two = (measures(*side, tokenize="13a") for side in (first, second))
    return {name: difference(one[name], two[name], trials=trials) for name in one}


@pytest.mark.slow
def test_equals_sacrebleus_own_randomisation():
    (a, references), (b, _) = texts(0.2, 1), texts(0.2, 2)
    found = both((a, references), (b, references))["bleu4"]
    paired = PairedTest(
        [("a", a), ("b", b)], {"BLEU": BLEU()}, [references], test_type="ar", n_samples=1000
    )
    theirs = paired()[1]["BLEU"][1]
    # The very tosses of sacrebleu, which leaves ties out.
    assert found.p == pytest.approx(theirs.p_value, abs=0.002)
    assert 0.01 < found.p < 0.9
    assert found.b == pytest.approx(theirs.score)


@pytest.mark.slow
def test_a_run_does_not_differ_from_itself():
    same = texts(0.3, 1)
    for found in both(same, same).values():
        assert (found.difference, found.interval, found.p, found.p_bootstrap) == (0, (0, 0), 1, 1)


@pytest.mark.slow
def test_a_clear_difference_is_found_in_every_metric():
    for name, found in both(texts(0.1, 1), texts(0.5, 2)).items():
        better = -found.difference if name == "ter" else found.difference
        assert better > 10, name
        assert found.p == found.p_bootstrap == pytest.approx(1 / 1001), name
        low, high = found.interval
        assert low < found.difference < high
        assert low * high > 0, name


@pytest.mark.slow
def test_chance_is_taken_for_a_difference_as_often_as_it_should_be():
    chance = np.random.default_rng(0)
    found = []
    for _ in range(200):
        sides = [mean_of(chance.normal(size=40).tolist(), "") for _ in range(2)]
        one = difference(*sides, trials=200)
        found.append((one.p, one.p_bootstrap, not one.interval[0] < 0 < one.interval[1]))
    p, bootstrap, excluded = np.array(found).T
    for values in (p, bootstrap):
        assert np.mean(values < 0.05) < 0.1
        assert np.mean(values) == pytest.approx(0.5, abs=0.07)
    assert excluded.mean() < 0.1


@pytest.mark.slow
def test_clips_are_paired_by_their_ids(tmp_path, finished):
    """Tables of equal clips may list them in other orders."""
    (hypotheses, references), runs = texts(0.2, 1), [tmp_path / name for name in ("one", "other")]
    lines = [
        ScoredClip(id=str(number), hypothesis=said, reference=meant)
        for number, (said, meant) in enumerate(zip(hypotheses, references, strict=True))
    ]
    card = Scorecard(
        run="run", name="test", split="test", protocol="default", n=len(lines), metrics={},
        intervals={}, signatures={}, bootstrap={}, headline={}, conventions=[], warnings=[],
        published=[], failed={}, shuffled=False, changed={}, stores={}, identity="i",
    )  # fmt: skip
    for run, listed in zip(runs, (lines, lines[::-1]), strict=True):
        shutil.copytree(finished[0], run)
        keep_card(run, card, listed)
    for name, found in compare(*runs).items():
        assert (found.difference, found.p) == (0, 1), name


def test_tosses_are_the_same_however_many_are_asked_for():
    chance = np.random.default_rng(0)
    one, other = (mean_of(chance.normal(size=40).tolist(), "") for _ in range(2))
    few, many = (_tossed(one, other, trials) for trials in (100, 1500))
    assert (len(few), len(many)) == (100, 1500)
    assert few.tolist() == many[:100].tolist()
    sides = np.random.default_rng(SEED).integers(2, size=(1500, 40), dtype=bool)
    gaps = np.where(sides, 1, -1) @ (one.statistics - other.statistics)[:, 0] / 40
    assert many == pytest.approx(np.abs(gaps))


def runs(means, clips, chance, seed_noise=1.0):
    """A measure for each of ``means``, whose clips share how hard they are with other runs'."""
    hard = np.random.default_rng(clips).normal(scale=20, size=clips)
    drawn = [mean + chance.normal(scale=seed_noise) for mean in means]
    return [mean_of((hard + mean + chance.normal(scale=5, size=clips)).tolist(), "")
            for mean in drawn]  # fmt: skip


@pytest.mark.slow
def test_seeds_that_differ_by_chance_are_not_told_apart():
    chance = np.random.default_rng(0)
    found = [seeds_difference(*(runs([50] * 3, 40, chance) for _ in range(2))) for _ in range(150)]
    assert np.mean([one.significant for one in found]) <= 0.08
    assert np.mean([not one.interval[0] < 0 < one.interval[1] for one in found]) <= 0.08


def test_a_planted_difference_between_seeds_is_told_apart():
    chance = np.random.default_rng(0)
    found = [
        seeds_difference(*(runs([mean] * 3, 40, chance) for mean in (60, 50))) for _ in range(20)
    ]
    assert all(
        one.seeds == 3 and one.interval[0] < one.difference < one.interval[1] for one in found
    )
    assert np.mean([one.significant for one in found]) > 0.9


def test_a_seed_that_swings_the_score_outweighs_many_clips():
    """Over clips alone either difference would be certain."""
    chance = np.random.default_rng(0)
    ones, others = runs([55, 60, 50.5], 400, chance, 0), runs([50, 50, 50], 400, chance, 0)
    assert difference(ones[1], others[1], trials=200).p < 0.01
    swinging = seeds_difference(ones, others)
    assert not swinging.significant
    assert swinging.difference == pytest.approx(5.2, abs=0.5)
    assert seeds_difference(runs([55, 55.4, 54.8], 400, chance, 0), others).significant


def test_students_t_is_that_of_the_tables():
    for t, freedom, p in ((4.303, 2, 0.05), (2.776, 4, 0.05), (1.96, 1e4, 0.05), (12.706, 1, 0.05)):
        assert _student(t, freedom) == pytest.approx((p, t), rel=2e-3)


def test_a_single_seed_is_tested_over_clips():
    chance = np.random.default_rng(0)
    one, other = runs([60], 40, chance), runs([50], 40, chance)
    found, known = seeds_difference(one, other, trials=200), difference(*one, *other, trials=200)
    assert (found.difference, found.p, found.seeds) == (known.difference, known.p, 1)
