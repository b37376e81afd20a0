from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from spamo_cache.report import figures
from spamo_cache.report.figures import Measured, Row, Series
from spamo_cache.report.figures.svg import join, tag
from spamo_cache.report.formats import number, signed

finite = st.floats(-1e6, 1e6)


def parsed(figure: str) -> ET.Element:
    return ET.fromstring(figure)  # noqa: S314


def sizes(figure: str) -> list[ET.Element]:
    """A figure as a phone shows it, and as a wide screen does."""
    slim, broad = parsed(f"<div>{figure}</div>")
    return [slim, broad]


@settings(deadline=None)
@given(finite, finite)
def test_ticks_enclose_the_values_in_round_steps(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = figures.ticks(low, high)
    slack = 1e-6 * max(1.0, high - low)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 12
    assert found == sorted(found)


def test_ticks_are_numbers_people_use() -> None:
    assert figures.ticks(0, 100) == [0, 50, 100]
    assert figures.ticks(0.1, 3.3) == [0, 1, 2, 3, 4]
    assert figures.ticks(5, 5)[0] <= 5 <= figures.ticks(5, 5)[-1]


def test_thinning_keeps_the_mean_and_the_last_step() -> None:
    points = [(float(x), float(x % 2)) for x in range(10_000)]
    kept = figures.thinned(points)
    assert len(kept) <= figures.MAX_POINTS
    assert kept[-1][0] == 9_999
    assert sum(y for _, y in kept) / len(kept) == pytest.approx(0.5, abs=0.01)
    assert figures.thinned(points[:5]) == points[:5]


def test_a_curve_draws_every_point_and_says_its_message() -> None:
    series = [Series("a & b", [(0, 1.0), (50, 3.0), (100, 2.0)])]
    figure = parsed(figures.curves(series, title="dev BLEU", best=True))
    assert figure.get("role") == "img"
    assert figure.get("aria-label") == "dev BLEU over steps. a & b: from 1.00 best 3.00 at step 50."
    line = figure.find("polyline")
    assert line is not None
    places = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    assert len(places) == 3
    assert places[1][1] < places[2][1] < places[0][1]
    dot = figure.find("circle")
    assert dot is not None
    assert (float(str(dot.get("cx"))), float(str(dot.get("cy")))) == places[1]


def test_curves_survive_nothing_one_point_and_a_constant() -> None:
    assert "Nothing was logged" in figures.curves([Series("a", [])], title="t")
    assert "<circle" in figures.curves([Series("a", [(10, 0.0)])], title="t")
    assert "NaN" not in figures.curves([Series("a", [(0, 2.0), (9, 2.0)])], title="t")


def test_intervals_span_their_bounds() -> None:
    figure = figures.intervals([("BLEU-4", 40.0, (36.0, 44.0)), ("chrF", 20.0, None)], "Scores")
    tree = parsed(figure)
    whiskers = [line for line in tree.iter("line") if line.get("class") == "whisker"]
    (whisker,) = whiskers
    dots = [float(str(dot.get("cx"))) for dot in tree.iter("circle")]
    assert float(str(whisker.get("x1"))) < dots[0] < float(str(whisker.get("x2")))
    assert dots[0] - 74 == pytest.approx(2 * (dots[1] - 74), abs=0.2)
    assert "BLEU-4 40.0, 95 percent 36.0 to 44.0; chrF 20.0." in figure


def test_a_histogram_counts_every_value() -> None:
    figure = figures.histogram([0, 3, 50, 100, 100], title="chrF")
    told = re.findall(r"<title>(\d+ to \d+: \d+ clips?)<", figure)
    assert told == ["0 to 5: 2 clips", "50 to 55: 1 clip", "95 to 100: 2 clips"]
    assert "5 clips, median 50.0" in figure


def test_shares_are_in_proportion() -> None:
    drawn = figures.shares({"a": 10, "b": 5}, {"a": "10 s", "b": "5 s"}, title="Time")
    bars = [r for r in parsed(drawn).iter("rect") if r.get("class") != "rail"]
    assert float(str(bars[0].get("width"))) == 2 * float(str(bars[1].get("width")))
    assert "Time: a 10 s; b 5 s." in drawn


def test_elements_escape_everything_but_markup() -> None:
    hostile = "<script>\"'&"
    assert tag("text", hostile, href=hostile) == (
        '<text href="&lt;script&gt;&#34;&#39;&amp;">&lt;script&gt;&#34;&#39;&amp;</text>'
    )
    assert join(Markup("<b>"), "<b>", None) == "<b>&lt;b&gt;"
    assert tag("text", text_anchor="end", class_="x", x=None) == (
        '<text text-anchor="end" class="x"></text>'
    )


def test_numbers_are_readable() -> None:
    assert (number(None), number(1234.5), number(3, 0)) == ("–", "1,234.50", "3")
    assert [number(v) for v in (-0.001, 0.0, -1.5)] == ["0.00", "0.00", "−1.50"]
    shown = ["–", "+0.0", "0.0", "−12.5", "+3.0"]
    assert [signed(v) for v in (None, 0.04, -0.04, -12.5, 3)] == shown


def test_error_bars_span_their_bounds_on_a_logarithmic_axis() -> None:
    group = [
        Measured(str(x), x, 10.0 * n, (10 * n - 2, 10 * n + 2)) for n, x in enumerate((2, 4, 8), 1)
    ]
    figure = figures.against([group], title="BLEU-4", axis="stride", log=True)
    for tree in sizes(figure):
        dots = [(float(str(d.get("cx"))), float(str(d.get("cy")))) for d in tree.iter("circle")]
        # 2, 4 and 8 are equally far apart.
        assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)
        uprights = [
            re.search(r"M([\d.]+),([\d.]+)V([\d.]+)", str(p.get("d"))) for p in tree.iter("path")
        ]
        for (x, y), upright in zip(dots, uprights, strict=True):
            assert upright is not None
            at, lower, upper = map(float, upright.groups())
            assert at == x
            assert upper < y < lower
    assert "BLEU-4 against stride (logarithmic). 2 at 2: 10.0, 8.0 to 12.0; 4 at 4: 20.0" in figure


def test_points_of_two_groups_at_one_place_do_not_hide_each_other() -> None:
    groups = [[Measured(name, x, 10.0, (8, 12)) for x in (2, 4)] for name in ("a", "b")]
    tree, _ = sizes(figures.against(groups, title="t", axis="x", log=False))
    places = [float(str(dot.get("cx"))) for dot in tree.iter("circle")]
    assert places[2] - places[0] == places[3] - places[1] > 6
    assert max(places) < float(str(tree.get("viewBox")).split()[2])


def test_a_fit_is_drawn_and_shares_read_as_fractions() -> None:
    group = [Measured("a", x, 40 * x) for x in (0.125, 0.5, 1.0)]
    figure = figures.against([group], title="t", axis="share", log=True, fit=lambda x: 40 * x)
    slim, _ = sizes(figure)
    labels = [text.text for text in slim.iter("text")]
    assert {"1/8", "1/2", "1"} <= set(labels)
    (line,) = slim.iter("polyline")
    assert line.get("class") == "line fit"
    ends = [
        pair.split(",")[1]
        for pair in (str(line.get("points")).split()[0], str(line.get("points")).split()[-1])
    ]
    dots = [dot.get("cy") for dot in slim.iter("circle")]
    assert ends == [dots[0], dots[-1]]


def test_rows_show_before_chance_seeds_and_what_all_are_held_against() -> None:
    rows = [Row("both", 40, (36, 44)), Row("seeds", 30, (28, 32), seeds=(28, 32)),
            Row("recall", 20, before=5, chance=1)]  # fmt: skip
    figure = figures.ranges(rows, "BLEU-4", beside=("both", 40.0))
    kinds = [part.get("class") for part in parsed(figure).iter("circle")]
    assert kinds.count("seed") == 2
    assert kinds.count("hollow") == 1
    assert "both 40.0, 95 percent 36.0 to 44.0; seeds 30.0, spread 28.0 to 32.0" in figure
    assert "recall 20.0, before 5.0, by chance 1.0. Dashed line: both." in figure


def test_contributions_point_to_their_side_of_nothing() -> None:
    figure = figures.balance([("SE", 20.0, 2.0), ("VT-Align", -5.0, None)], "Shapley")
    for tree in sizes(figure):
        plus, minus = tree.iter("rect")
        assert float(str(minus.get("x"))) < float(str(plus.get("x")))
        assert float(str(plus.get("width"))) == pytest.approx(
            4 * float(str(minus.get("width"))), abs=0.3
        )
    assert "SE +20.0 plus or minus 2.0; VT-Align −5.0." in figure


def boxes(tree: ET.Element) -> list[tuple[float, float, float, float]]:
    """About where the words of a figure stand."""
    found = []
    for text in tree.iter("text"):
        x, y, wide = float(str(text.get("x"))), float(str(text.get("y"))), 7 * len(text.text or "")
        left = {"start": x, "middle": x - wide / 2, "end": x - wide}[str(text.get("text-anchor"))]
        found.append((left, y - 10, left + wide, y))
    return found


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 60)), min_size=2, max_size=14),
    st.booleans(),
)
def test_no_label_of_a_curve_covers_another(points: list[tuple[float, float]], log: bool) -> None:
    group = [Measured(str(n), x, y, (y - 1, y + 1)) for n, (x, y) in enumerate(points)]
    drawn = figures.against([group, group[::2]], title="t", axis="share", log=log)
    for tree in sizes(drawn):
        found = boxes(tree)
        pairs = [(a, b) for n, a in enumerate(found) for b in found[n + 1 :]]
        hits = [
            (a, b) for a, b in pairs
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        ]  # fmt: skip
        assert not hits


def test_a_long_name_is_cut_before_its_value() -> None:
    slim, broad = sizes(figures.ranges([Row("n" * 200, 40)], "BLEU-4", broad=True))
    for tree, most in ((slim, 45), (broad, 45)):
        name, value = (text for text in tree.iter("text") if text.get("class") in ("name", "value"))
        assert str(name.text).endswith("…")
        assert len(str(name.text)) < most
        assert value.text == "40.0"
