from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamo_cache.config import RowsSpec, StoreSpec
from spamo_cache.errors import ConfigError
from spamo_cache.extract.placement import (
    CountedClips,
    Placement,
    RowLayout,
    continued_placement,
    new_placement,
)
from spamo_cache.store import index as store_index
from spamo_cache.store.layout import ChunkLayout, ClipKey, Slot, aligned

STORE = StoreSpec(
    chunk_rows=RowsSpec(frame=32, window=8), shard_rows=RowsSpec(frame=256, window=64)
)
STREAMS = {
    "spatial": RowLayout(lambda n: n, 32, 256),
    "motion": RowLayout(lambda n: max(n - 16, 0) // 8 + 1, 8, 64),
}


@dataclass(frozen=True)
class Clip:
    id: str
    split: str
    source: str
    start: float | None = None
    end: float | None = None
    crop: None = None


def corpus(frames: list[int], splits: int = 3) -> list[Clip]:
    return [
        Clip(f"id{k}", f"split{k % splits}", f"v{k // 2}.mp4", k % 2) for k in range(len(frames))
    ]


def plan(
    clips: list[Clip], frames: list[int], streams: dict[str, RowLayout] = STREAMS
) -> dict[str, Placement]:
    counted = CountedClips.of(clips, frames, STORE)
    return {name: new_placement(counted, stream, name) for name, stream in streams.items()}


def slots(places: dict[str, Placement], clips: list[Clip], name: str) -> dict[str, Slot]:
    return {slot.id: slot for slot in places[name].slots(clips)}


def check(found: dict[str, Placement], clips: list[Clip], frames: list[int]) -> None:
    too_long = CountedClips.of(clips, frames, STORE).too_long
    for name, stream in STREAMS.items():
        members = found[name].members
        assert sorted(k for numbers in members.values() for k in numbers) == list(range(len(clips)))
        assert list(members) == list(range(len(members)))
        placed = slots(found, clips, name)
        for number, positions in members.items():
            end = number * stream.shard_rows
            assert len({clips[k].split for k in positions}) == 1
            for k in positions.tolist():
                slot = placed[clips[k].id]
                assert (slot.split, slot.frames) == (clips[k].split, frames[k])
                assert (slot.partition, slot.row % stream.chunk_rows) == (number, 0)
                assert slot.rows == (
                    stream.rows(frames[k]) if frames[k] and k not in too_long else 0
                )
                assert slot.row == end
                end = slot.row + aligned(slot.rows, stream.chunk_rows)
            assert end <= (number + 1) * stream.shard_rows


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(1, 4), st.randoms())
def test_plans_are_sound_and_do_not_depend_on_the_order(
    frames: list[int], splits: int, chance: random.Random
) -> None:
    clips = corpus(frames, splits)
    found = plan(clips, frames)
    check(found, clips, frames)
    shuffled = list(zip(clips, frames, strict=True))
    chance.shuffle(shuffled)
    others = [clip for clip, _ in shuffled]
    other = plan(others, [count for _, count in shuffled])
    for name in STREAMS:
        assert slots(found, clips, name) == slots(other, others, name)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=60))
def test_a_streams_places_do_not_depend_on_other_streams(frames: list[int]) -> None:
    clips = corpus(frames)
    found = plan(clips, frames)
    members = [
        {k: v.tolist() for k, v in found[name].members.items()} for name in ("spatial", "motion")
    ]
    assert members[0] == members[1]


def test_partitions_hold_as_much_as_fits_and_one_split() -> None:
    clips = [Clip(f"{k}", "b" if k > 4 else "a", f"{k}") for k in range(8)]
    found = plan(clips, [64] * 8)["spatial"].members
    assert [positions.tolist() for positions in found.values()] == [[0, 1, 2, 3], [4], [5, 6, 7]]


def test_clips_longer_than_a_shard_are_set_aside() -> None:
    counted = CountedClips.of(corpus([40, 257, 40]), [40, 257, 40], STORE)
    assert list(counted.too_long) == [1]
    assert "raise store.shard_rows" in counted.too_long[1]
    assert new_placement(counted, STREAMS["spatial"], "spatial").rows.tolist() == [40, 0, 40]


def test_windows_that_do_not_fit_a_shard_are_an_error_with_the_remedy() -> None:
    dense = {"motion": RowLayout(lambda n: n, 8, 64)}
    with pytest.raises(ConfigError, match="a partition has 96 rows") as error:
        plan(corpus([96]), [96], dense)
    assert "raise store.shard_rows.window to 96" in str(error.value)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 200)] * 2, st.booleans()), min_size=1, max_size=40),
    st.sampled_from(["spatial", "motion"]),
)
def test_a_plan_goes_on_without_moving_what_is_finished_or_counted_as_before(
    clips_frames: list[tuple[int, int, bool]], name: str
) -> None:
    before, after, unfinished = (list(column) for column in zip(*clips_frames, strict=True))
    clips, stream = corpus(before), STREAMS[name]
    old = plan(clips, before)[name]
    counted = CountedClips.of(clips, after, STORE)
    new = continued_placement(old, counted, stream, name, unfinished=np.array(unfinished))
    last = max(old.members)
    for k, (slot, now) in enumerate(zip(old.slots(clips), new.slots(clips), strict=True)):
        if unfinished[k] and after[k] and after[k] != before[k]:
            assert now.partition > last
            assert (now.rows, now.frames, now.split) == (
                stream.rows(after[k]),
                after[k],
                slot.split,
            )
        else:
            assert now == slot
    # The rows of all partitions still lie apart, within their shards: the store checks that.
    keys = [ClipKey(clip.id, clip.source, 1) for clip in clips]
    layout = ChunkLayout(4, "float16", stream.chunk_rows, stream.shard_rows)
    columns, _ = store_index.plan(keys, new.slots(clips), layout)
    known, _ = store_index.plan(keys, old.slots(clips), layout)
    assert store_index.goes_on(known, columns)
    again = continued_placement(new, counted, stream, name, unfinished=np.array(unfinished))
    assert again is new


@pytest.mark.parametrize(("before", "after", "may"), [(40, 41, True), (40, 40, False)])
def test_only_features_of_other_frames_give_their_place_up(
    before: int, after: int, *, may: bool
) -> None:
    clips, stream = corpus([before, 50]), STREAMS["spatial"]
    keys = [ClipKey(clip.id, clip.source, 1) for clip in clips]
    layout = ChunkLayout(4, "float16", stream.chunk_rows, stream.shard_rows)
    slots = plan(clips, [before, 50])["spatial"].slots(clips)
    known, _ = store_index.plan(keys, slots, layout)
    known["state"][:] = store_index.OK
    moved = replace(slots[0], partition=2, row=2 * stream.shard_rows, rows=after, frames=after)
    wanted, _ = store_index.plan(keys, [moved, slots[1]], layout)
    assert store_index.goes_on(known, wanted) is may


@pytest.mark.slow
def test_a_million_clips_are_planned_in_ten_seconds() -> None:
    """A twentieth of that, in fact: one object per clip and stream would take half of it."""
    count = 1_000_000
    clips = [Clip(f"{k:07}", "train", f"{k:07}") for k in range(count)]
    frames = [100 + k % 50 for k in range(count)]
    began = time.process_time()
    found = plan(clips, frames)
    assert time.process_time() - began < 10
    assert sum(map(len, found["spatial"].members.values())) == count
