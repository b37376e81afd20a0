"""Splits drawn anew: what they share, what they hold, and what they say of themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.overlap import same_sentences, same_signers, same_videos
from spamo_cache.datasets.resplit import resplit
from spamo_cache.errors import UsageError

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["train", "dev", "test"]),
        st.sampled_from([*"abcdefghij", None]),
        st.sampled_from(["Regen.", "regen", "Schnee !", "schnee", *"abcdefghijklmnopqrst"]),
        st.sampled_from(["a.mp4", "./a.mp4", "b.mp4"]),
        st.integers(0, 90),
        st.sampled_from([1, 1, 1, 1, 2, 9]),
    ),
    min_size=12,
    max_size=40,
)


def corpus(rows: list[tuple[Any, ...]]) -> Manifest:
    return Manifest.from_clips(
        "lab",
        [
            Clip(id=f"c{number}", split=split, source=source, start=start, text=text,
                 end=start + length, language="German", signer=signer)
            for number, (split, signer, text, source, start, length) in enumerate(rows)
        ],
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    by=st.sampled_from(["signer", "sentence"]),
    folds=st.sampled_from([None, 2, 3]),
    hold_out=st.sampled_from([None, 1]),
    seed=st.integers(0, 3),
)
def test_folds_share_nothing_and_hold_every_clip_once(
    rows: list[tuple[Any, ...]], by: str, folds: int | None, hold_out: int | None, seed: int
) -> None:
    whole = corpus(rows)
    try:
        made = resplit(whole, by, folds=folds, hold_out=hold_out, seed=seed, gaps="train")
    except UsageError as error:
        event(error.what.partition("would")[2] or "no signer at all")
        return
    gaps = {clip.id for clip in whole.clips() if clip.signer is None and by == "signer"}
    tested = Counter(clip.id for fold in made for clip in fold.clips("test"))
    held = {clip.id for fold in made for clip in fold.clips() if clip.split == "held-out"}
    assert len(made) == (folds or 1)
    assert bool(held) == (folds is not None and hold_out is not None)
    assert not tested or max(tested.values()) == 1
    if folds is not None:
        assert {clip.id for clip in whole.clips()} - gaps <= set(tested) | held
    for fold in made:
        # All columns but one are the manifest's own, row by row.
        assert fold.table.drop(["split"]) == whole.table.drop(["split"])
        assert set(fold.splits) >= {"train", "dev", "test"}
        for split in fold.splits:
            clips = fold.clips(split)
            others = [clip for clip in fold.clips() if clip.split != split]
            assert not any(same_videos(others, clips))
            shared = same_sentences(others, [clip.text for clip in clips])
            assert not any(same_signers(others, clips).known if by == "signer" else shared)


def many() -> Manifest:
    """Twelve signers of 3 to 14 clips; a tenth is dev, a fifth test."""
    splits = [*["train"] * 7, "dev", "test", "test"]
    return Manifest.from_clips(
        "lab",
        [
            Clip(id=f"{signer}-{number}", split=splits[number % 10], language="German",
                 source=f"{signer}-{number}.mp4", text=f"satz {number}", signer=f"s{signer}")
            for signer in range(12)
            for number in range(3 + signer)
        ],
    )  # fmt: skip


def test_sizes_are_balanced_and_follow_the_seed() -> None:
    folds = resplit(many(), "signer", folds=4)
    sizes = [len(fold.select(["test"])) for fold in folds]
    assert sum(sizes) == len(many())
    assert max(sizes) - min(sizes) <= 14
    assert [fold.resplit for fold in folds][1] == "fold 2 of 4 by signer, seed 0"
    again, other = (resplit(many(), "signer", folds=4, seed=seed) for seed in (0, 1))
    assert [one.table for one in again] == [one.table for one in folds]
    assert [one.table for one in other] != [one.table for one in folds]


def test_one_split_is_about_as_large_as_the_one_before() -> None:
    (one,) = resplit(many(), "sentence")
    before = Counter(many().table["split"].to_pylist())
    after = Counter(one.table["split"].to_pylist())
    assert all(abs(before[split] - after[split]) <= 12 for split in before)
    (held,) = resplit(many(), "signer", hold_out=3)
    assert len({clip.signer for clip in held.clips("test")}) == 3
    assert held.resplit == "split by signer, seed 0, 3 held out"


def test_what_a_manifest_says_of_its_splits_travels_with_it(tmp_path: Path) -> None:
    fold = resplit(many(), "signer", folds=3)[1].limit(5)
    assert Manifest.read(fold.write(tmp_path / "fold.parquet")).resplit == fold.resplit
    assert many().to_bytes() == many().select(many().splits).to_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "signers"}, "no column 'signers'"),
        ({"by": "signer", "folds": 12}, "fold 11 of 12 would have an empty test"),
        ({"by": "signer", "folds": 1}, "1 fold"),
        ({"by": "signer", "hold_out": 0}, "0 to hold out"),
        ({"by": "signer", "hold_out": 9}, "the split would have an empty dev"),
        ({"by": "gloss"}, "10 of 10 clips have no gloss"),
        ({"by": "topic"}, "1 of 10 clips have no topic"),
    ],
)
def test_splits_that_cannot_be_made_are_refused_in_words(
    options: dict[str, Any], words: str
) -> None:
    clips = [
        Clip(id=f"c{n}", split="train", source=f"{n}.mp4", text="satz", language="German",
             signer=f"s{n}", extra={"topic": f"t{n}" if n else " "})
        for n in range(10)
    ]  # fmt: skip
    whole = Manifest.from_clips("lab", clips)
    with pytest.raises(UsageError, match=words) as caught:
        resplit(whole, **options)
    if options["by"] == "signers":
        assert "signer, topic" in (caught.value.remedy or "")
    (kept,) = resplit(whole, "topic", gaps="train")
    assert next(clip.split for clip in kept.clips() if clip.id == "c0") == "train"
    assert "1 clip without topic" in kept.notes[0]
