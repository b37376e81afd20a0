from __future__ import annotations

import numpy as np
import pytest

from spamo_cache.analysis import entropy
from spamo_cache.analysis.entropy import against, density, excess


def gaussian(n: int, d: int, seed: int) -> tuple[np.ndarray, float]:
    """Points of a Gaussian that is neither round nor at the origin, and its entropy in nats."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(d, d)) + 2 * np.eye(d)
    true = d / 2 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(shape)[1]
    return rng.normal(size=(n, d)) @ shape + 7, true


@pytest.mark.parametrize(("d", "bound"), [(1, 0.05), (2, 0.10), (4, 0.25)])
def test_gaussians_have_their_entropy(d: int, bound: float) -> None:
    for seed in range(4):
        points, true = gaussian(500, d, seed)
        made = density(points)
        assert made is not None
        assert true - 3 * made.error <= made.entropy <= true + 3 * made.error + bound


@pytest.mark.parametrize(("d", "bound"), [(1, 0.10), (2, 0.20)])
def test_a_box_has_the_log_of_its_volume(d: int, bound: float) -> None:
    for seed in range(4):
        made = density(np.random.default_rng(seed).uniform(-1, 2, size=(500, d)))
        assert made is not None
        true = d * np.log(3)
        assert true - 3 * made.error <= made.entropy <= true + 3 * made.error + bound


def test_error_and_bias_are_those_of_many_samples() -> None:
    made = [(density(points), true) for points, true in (gaussian(120, 3, s) for s in range(40))]
    off = np.array([one.entropy - true for one, true in made])
    assert off.std() == pytest.approx(np.mean([one.error for one, _ in made]), rel=0.35)
    assert off.mean() == pytest.approx(excess(120, 3), abs=4 * off.std() / np.sqrt(40))
    assert made[0][0].bias == excess(120, 3)
    assert excess(60, 4) > excess(240, 4) > 0


def test_a_linear_map_adds_the_log_of_its_volume() -> None:
    rng = np.random.default_rng(0)
    points, shape = rng.standard_t(4, size=(90, 3)), rng.normal(size=(3, 3))
    before, after = density(points), density(points @ shape - 5)
    assert before is not None
    assert after is not None
    volume = np.linalg.slogdet(shape)[1]
    assert after.entropy == pytest.approx(before.entropy + volume, abs=1e-6)


def test_the_surprise_at_the_same_distribution_is_its_entropy() -> None:
    points, true = gaussian(1600, 2, 0)
    made = density(points[:800])
    assert made is not None
    assert made.surprise(points[800:]) == pytest.approx(true, abs=0.15)
    far = made.surprise(points + 1e3)
    assert np.isfinite(far)
    assert far > 1e4


def test_points_on_a_plane_and_few_points_have_none() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 4))
    assert density(flat) is None
    assert density(np.ones((50, 4))) is None
    assert density(rng.normal(size=(15, 4))) is None


def test_many_points_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "POINTS", 100)
    made = density(np.random.default_rng(0).normal(size=(1000, 2)))
    assert made is not None
    assert made.points == 100


def test_signs_are_placed_among_the_sentences() -> None:
    rng = np.random.default_rng(0)
    spread = np.linspace(3, 0.1, 12)
    text, same, tight = (rng.normal(size=(300, 12)) * spread for _ in range(3))
    found = against(text, same, tight * 0.1 + 20)
    assert found is not None
    assert found.sign.gap == pytest.approx(0, abs=0.3)
    assert found.sign.divergence == pytest.approx(0, abs=0.3)
    # A tenth as wide in each of the four directions, and far away.
    assert found.sign_before.gap == pytest.approx(4 * np.log(0.1), abs=0.4)
    assert found.sign_before.divergence > 50
    kept = (spread[:4] ** 2).sum() / (spread**2).sum()
    assert found.explained == pytest.approx(kept, abs=0.05)
    # Whitened by itself, the text is a unit Gaussian.
    assert found.text.nats == pytest.approx(2 * np.log(2 * np.pi * np.e), abs=0.3)
    assert found.text.points == found.sign.points == found.sign_before.points == 300


def test_what_cannot_be_estimated_is_none() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(40, 12))
    found = against(text, np.ones((40, 12)))
    assert found is not None
    assert found.sign is found.sign_before is None
    assert against(text[:5], text) is None
