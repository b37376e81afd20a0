"""Contrast of the style sheet's colours (WCAG 2.2, AA) in the light and the dark scheme."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = files("spamo_cache.report").joinpath("templates/style.css").read_text(encoding="utf-8")
SCHEMES = {
    name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for name, block in zip(
        ("light", "dark"), re.findall(r":root \{(.*?)\n *\}", STYLE, re.S), strict=False
    )
}
WORDS = [
    *((ink, ground) for ink in ("ink", "soft", "accent", "warm") for ground in ("paper", "card")),
    *(("ink", ground) for ground in ("warm-tint", "quiet", "tint")),
    ("warm", "warm-tint"), ("accent", "tint"), ("soft", "rule"),
]  # fmt: skip
SHAPES = [(f"c{n}", ground) for n in range(1, 7) for ground in ("card", "paper")]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), WORDS)
def test_words_can_be_read(scheme: str, ink: str, ground: str) -> None:
    palette = SCHEMES[scheme]
    assert contrast(palette[ink], palette[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_figures_can_be_seen(scheme: str, shape: str, ground: str) -> None:
    palette = SCHEMES[scheme]
    assert contrast(palette[shape], palette[ground]) >= 3


def test_both_schemes_have_every_colour_and_paper_is_always_light() -> None:
    assert SCHEMES["light"].keys() == SCHEMES["dark"].keys()
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE
