"""Whose features are whose: every cause that numbers can tell is planted and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spamo_cache.store.compare import (
    Cause,
    Rows,
    Sample,
    align,
    causes,
    explanation,
    judge,
    rows_of,
)
from spamo_cache.store.foreign import Item

CHANCE = np.random.default_rng(0)
WIDTH = 24


def clip(rows: int, width: int = WIDTH) -> Rows:
    """Rows that change from one to the next about as much as features do."""
    common = np.random.default_rng(1).normal(size=width)
    return common + 0.3 * CHANCE.normal(size=(rows, width))


STORE = [clip(rows) for rows in (24, 33, 40, 17)]
PARAMETERS = CHANCE.normal(size=(2, WIDTH))


def layer_norm(rows: Rows) -> Rows:
    centred: Rows = rows - rows.mean(axis=1, keepdims=True)
    normed: Rows = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-5)
    scaled: Rows = normed * (1 + 0.3 * PARAMETERS[0]) + PARAMETERS[1]
    return scaled


def bfloat16(rows: Rows) -> Rows:
    import torch

    return torch.from_numpy(rows).bfloat16().double().numpy()


MEAN = np.concatenate(STORE).mean(axis=0)
SPREAD = np.concatenate(STORE).std(axis=0)
PLANTED: dict[str, tuple[Callable[[Rows], Rows], str, str]] = {
    "after the norm": (layer_norm, "layer-norm", "theirs are after the last layer norm"),
    "rounded": (bfloat16, "precision", "theirs are rounded to bfloat16"),
    "later": (lambda b: b[3:], "offset", "begin 3 windows (24 frames) later"),
    "earlier": (lambda b: np.concatenate([clip(1), b]), "offset", "1 window (8 frames) earlier"),
    "every other": (lambda b: b[::2], "stride", "theirs have a row every 16 frames, the store"),
    "every third": (lambda b: b[1::3], "stride", "every 24 frames, the store every 8, beginning"),
    "one more": (lambda b: np.concatenate([b, clip(1)]), "tail", "theirs have one more window"),
    "one fewer": (lambda b: b[:-1], "tail", "the store's have one more window"),
    "sorted by name": (
        lambda b: b[sorted(range(len(b)), key=str)], "order", "stand in another order",
    ),
    "turned": (lambda b: b[::-1], "order", "order"),
    "scaled": (lambda b: 0.1 * b, "scale", "theirs are 0.1 times the store's"),
    "scaled and shifted": (lambda b: 2 * b - 1, "scale", "2 times the store's, and -1"),
    "of length one": (
        lambda b: b / np.linalg.norm(b, axis=1, keepdims=True), "scale", "divided by their length",
    ),
    "centred by clip": (lambda b: b - b.mean(axis=0), "centring", "the mean of each clip"),
    "centred": (lambda b: b - MEAN, "centring", "each dimension of theirs is shifted"),
    "standardised": (lambda b: (b - MEAN) / SPREAD, "scale", "is scaled and shifted"),
    "one scale": (lambda b: b[:, : WIDTH // 2], "scales", "theirs are part 1 of 2"),
    "scales turned": (lambda b: np.roll(b, WIDTH // 2, axis=1), "scales", "in another order"),
    "another second scale": (
        lambda b: np.concatenate([b[:, : WIDTH // 2], clip(len(b))[:, WIDTH // 2 :]], axis=1),
        "scales", "the second is made otherwise",
    ),
}  # fmt: skip


def found(theirs: list[Rows], ours: list[Rows], **known: Any) -> Cause | None:
    pairs = list(zip(theirs, ours, strict=True))
    about = {"unit": "window", "stride": 8, "scales": 2, **known}
    alike = all(a.shape == b.shape for a, b in pairs)
    return explanation(causes(Sample(pairs, **about)), judge(pairs)[0] if alike else None)


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("halves", [False, True], ids=["exact", "in-a-half-precision-store"])
def test_a_planted_cause_is_named(name: str, halves: bool) -> None:
    planted, kind, words = PLANTED[name]
    scales = 1 if name == "after the norm" else 2
    kept = [rows_of(b.astype(np.float16)) if halves else b for b in STORE]
    cause = found([planted(b) for b in STORE], kept, scales=scales)
    if name == "rounded" and halves:
        return  # two roundings hide each other
    assert cause is not None
    assert (cause.kind, words in cause.what) == (kind, True), cause


def test_the_store_may_be_the_one_behind_the_norm() -> None:
    cause = found(STORE, [layer_norm(b) for b in STORE], scales=1)
    assert cause is not None
    assert "theirs are before the last layer norm" in cause.what


def test_the_norm_is_told_by_the_first_of_two_scales() -> None:
    """The second is a mean over crops, and norms of means are not means of norms."""
    half = WIDTH // 2
    crops = [[clip(len(b))[:, half:] for _ in range(4)] for b in STORE]
    norm = PARAMETERS[:, :half]

    def after(rows: Rows) -> Rows:
        centred: Rows = rows - rows.mean(axis=1, keepdims=True)
        normed: Rows = centred / centred.std(axis=1, keepdims=True)
        scaled: Rows = normed * (1 + norm[0]) + norm[1]
        return scaled

    ours = [np.hstack([b[:, :half], np.mean(c, axis=0)]) for b, c in zip(STORE, crops, strict=True)]
    theirs = [
        np.hstack([after(b[:, :half]), np.mean([after(one) for one in c], axis=0)])
        for b, c in zip(STORE, crops, strict=True)
    ]
    cause = found(theirs, ours)
    assert cause is not None
    assert cause.kind == "layer-norm"
    assert "first scale" in cause.what


@pytest.mark.parametrize("rows", [1, 3])
def test_other_features_have_no_cause(rows: int) -> None:
    assert found([clip(len(b)) for b in STORE], STORE) is None
    assert found([clip(len(b))[:, :7] for b in STORE], STORE) is None
    assert found([clip(rows)], [clip(rows)]) is None


def item(name: str) -> Item:
    return Item(name, "", f"{name}.npy", lambda: np.ones((2, 3)))


NAMES = ["01April-1", "02May-2", "überall 手語"]


@pytest.mark.parametrize(
    ("form", "rule"),
    [
        ("{}", "id"),
        ("train/{}", "last part of the path"),
        ("{}.mp4", "name without ending"),
        ("{}_s2wrapping", "name as the release writes it"),
        ("videos/{}_s2wrapping.npy", "name as the release writes it"),
        ("ph14t-{}-clip", "id without 'ph14t-' and '-clip'"),
    ],
)
def test_clips_are_found_whatever_they_are_called(form: str, rule: str) -> None:
    for theirs, ours in (("{}", form), (form, "{}")):
        clips = [ours.format(name) for name in NAMES]
        made = align([item(theirs.format(name)) for name in NAMES], clips, "spatial")
        assert [clip for _, clip in made.pairs] == sorted(clips)
        expected = rule.replace("without", "with") if theirs == "{}" and "ph14t" in rule else rule
        assert dict(made.rules) == {expected: 3}
        assert not made.unknown


def test_files_of_the_other_stream_and_second_names_are_passed_over() -> None:
    endings = ("_s2wrapping", "_overlap-8", "_overlap-8-pretrained")
    items = [item(f"{name}{ending}") for name in NAMES for ending in endings] + [item("stray")]
    made = align(items, NAMES, "motion")
    assert (len(made.pairs), made.spare) == (3, 3)
    assert [one.id for one in made.unknown] == ["stray"]


def test_names_that_several_clips_share_find_none() -> None:
    made = align([item("a.mp4")], ["x/a", "y/a"])
    assert not made.pairs
