from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamo_cache.report.experiment_section import fitted

SHARES = (0.125, 0.25, 0.5, 1.0)


@given(a=st.floats(5, 50), b=st.floats(0.5, 10))
def test_points_of_a_logarithm_give_it_back(a: float, b: float) -> None:
    fit = fitted([(x, a + b * log(x)) for x in SHARES])
    assert fit is not None
    assert [fit(x) for x in SHARES] == pytest.approx([a + b * log(x) for x in SHARES], abs=1e-6)
    if fit.law == "logarithm":
        assert (fit.a, fit.b) == pytest.approx((a, b))


@given(a=st.floats(5, 50), b=st.floats(0.2, 1.5))
def test_points_of_a_power_give_it_back(a: float, b: float) -> None:
    fit = fitted([(x, a * x**b) for x in SHARES])
    assert fit is not None
    assert fit.law == "power"
    assert (fit.a, fit.b, fit.residual) == pytest.approx((a, b, 0.0), abs=1e-6)


def test_the_residual_is_the_standard_error_by_hand() -> None:
    # A flat line through 1, 3, 1, 3 leaves four errors of one over two degrees of freedom;
    # the slope of least squares over these places is 0.
    fit = fitted([(1.0, 1.0), (2.0, 3.0), (2.0, 1.0), (4.0, 1.0), (1.0, 3.0), (4.0, 3.0)])
    assert fit is not None
    assert fit.law == "logarithm"
    assert (fit.a, fit.b) == pytest.approx((2.0, 0.0))
    assert fit.residual == pytest.approx((6 / 4) ** 0.5)
    assert fit.points == 6


def test_a_doubling_is_told_in_points() -> None:
    fit = fitted([(x, 40 + 8 * log(x) / log(2)) for x in (0.25, 0.5, 1.0)])
    assert fit is not None
    assert "+8.0 for each doubling; residual standard error 0.00, 3 runs" in fit.words


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0.5, 20.0), (1.0, 30.0)],
        [(0.5, 20.0), (0.5, 21.0), (1.0, 30.0), (1.0, 31.0)],
        [(0.0, 1.0), (0.5, 20.0), (1.0, 30.0)],
    ],
)
def test_too_few_places_have_no_law(points: list[tuple[float, float]]) -> None:
    assert fitted(points) is None


def test_scores_of_nothing_take_the_logarithm() -> None:
    fit = fitted([(0.25, 0.0), (0.5, 10.0), (1.0, 20.0)])
    assert fit is not None
    assert fit.law == "logarithm"
