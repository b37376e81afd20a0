from __future__ import annotations

import random
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamo_cache.config import RowsSpec, StoreSpec
from spamo_cache.errors import ConfigError
from spamo_cache.extract.plan import Plan, StreamPlan, plan
from spamo_cache.store.layout import aligned

STORE = StoreSpec(
    chunk_rows=RowsSpec(frame=32, window=8), shard_rows=RowsSpec(frame=256, window=64)
)
STREAMS = {
    "spatial": StreamPlan(lambda n: n, 32, 256),
    "motion": StreamPlan(lambda n: max(n - 16, 0) // 8 + 1, 8, 64),
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


def check(found: Plan, clips: list[Clip], frames: list[int]) -> None:
    members = [k for positions in found.partitions for k in positions.tolist()]
    assert sorted(members) == list(range(len(clips)))
    for name, stream in STREAMS.items():
        slots = {slot.id: slot for slot in found.slots(name)}
        for number, positions in enumerate(found.partitions):
            end = number * stream.shard_rows
            for k in positions.tolist():
                slot = slots[clips[k].id]
                assert slot.split == clips[k].split == found.splits[number]
                assert (slot.partition, slot.row % stream.chunk_rows) == (number, 0)
                readable = frames[k] and k not in found.too_long
                assert slot.rows == (stream.rows(frames[k]) if readable else 0)
                assert slot.row == end
                end = slot.row + aligned(slot.rows, stream.chunk_rows)
            assert end <= (number + 1) * stream.shard_rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(1, 4), st.randoms())
def test_plans_are_sound_and_do_not_depend_on_the_order(
    frames: list[int], splits: int, chance: random.Random
) -> None:
    clips = corpus(frames, splits)
    found = plan(clips, frames, STREAMS, STORE)
    check(found, clips, frames)
    shuffled = list(zip(clips, frames, strict=True))
    chance.shuffle(shuffled)
    other = plan([c for c, _ in shuffled], [f for _, f in shuffled], STREAMS, STORE)
    for name in STREAMS:
        assert found.slots(name) == other.slots(name)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=60))
def test_a_streams_places_do_not_depend_on_other_streams(frames: list[int]) -> None:
    clips = corpus(frames)
    both = plan(clips, frames, STREAMS, STORE)
    for name, stream in STREAMS.items():
        assert plan(clips, frames, {name: stream}, STORE).slots(name) == both.slots(name)


def test_partitions_hold_as_much_as_fits_and_one_split() -> None:
    clips = [Clip(f"{k}", "b" if k > 4 else "a", f"{k}") for k in range(8)]
    found = plan(clips, [64] * 8, STREAMS, STORE)
    assert [positions.tolist() for positions in found.partitions] == [[0, 1, 2, 3], [4], [5, 6, 7]]


def test_clips_longer_than_a_shard_are_set_aside() -> None:
    found = plan(corpus([40, 257, 40]), [40, 257, 40], STREAMS, STORE)
    assert list(found.too_long) == [1]
    assert "raise store.shard_rows" in found.too_long[1]
    assert found.places["spatial"].rows.tolist() == [40, 0, 40]


def test_windows_that_do_not_fit_a_shard_are_an_error_with_the_remedy() -> None:
    dense = {"motion": StreamPlan(lambda n: n, 8, 64)}
    with pytest.raises(ConfigError, match="a partition has 96 rows") as error:
        plan(corpus([96]), [96], dense, STORE)
    assert "raise store.shard_rows.window to 96" in str(error.value)


def test_a_million_clips_are_planned_in_ten_seconds() -> None:
    """A twentieth of that, in fact: one object per clip and stream would take half of it."""
    count = 1_000_000
    clips = [Clip(f"{k:07}", "train", f"{k:07}") for k in range(count)]
    frames = [100 + k % 50 for k in range(count)]
    began = time.process_time()
    found = plan(clips, frames, STREAMS, STORE)
    assert time.process_time() - began < 10
    assert sum(map(len, found.partitions)) == count
