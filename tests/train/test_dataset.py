"""The torch Dataset: packed batches, in this process and in workers of both kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter
from spamo_cache.train.dataset import FeatureDataset, PackedBatch

CHUNK, SHARD, CLIPS = 4, 64, 30


def features(stream: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(len(stream))
    width = {"spatial": 12, "motion": 6}[stream]
    return {
        f"clip {n:02d}": random.normal(size=(int(random.integers(1, 12)), width)).astype("f2")
        for n in range(CLIPS)
    }


def written(
    root: Path, stream: str, failed: str, marks: Mapping[str, np.ndarray] | None = None
) -> FeatureStore:
    """A store of a stream; ``marks``: clip -> (rows,) which of its rows are valid."""
    clips = features(stream)
    slots = [
        Slot(clip, "train" if n < 20 else "dev", n // 5, n // 5 * SHARD + n % 5 * 12, len(rows))
        for n, (clip, rows) in enumerate(clips.items())
    ]
    writer = StoreWriter.open(
        root,
        corpus="toy",
        stream=stream,
        identity=StreamIdentity({"stream": stream}, "ab" * 32, 1),
        weights="random",
        keys=[ClipKey(clip, clip, 1) for clip in clips],
        slots=slots,
        width=next(iter(clips.values())).shape[1],
        dtype="float16",
        chunk_rows=CHUNK,
        shard_rows=SHARD,
        validity=marks is not None,
    )
    for part in range(CLIPS // 5):
        ids = [slot.id for slot in slots if slot.partition == part]
        there = {clip: clips[clip] for clip in ids if clip != failed}
        valid = {} if marks is None else {clip: marks[clip] for clip in there}
        failures = {failed: "unreadable"} if failed in ids else {}
        writer.publish(part, there, failures, {}, valid=valid)
    writer.commit_index()
    return FeatureStore.open(writer.path)


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, FeatureStore]:
    return {
        "spatial": written(tmp_path, "spatial", "clip 03"),
        "motion": written(tmp_path, "motion", "clip 17"),
    }


def assert_right(batches: list[PackedBatch], count: int) -> None:
    expected = {stream: features(stream) for stream in ("spatial", "motion")}
    seen: list[str] = []
    for batch in batches:
        seen += batch.ids
        for stream, packed in batch.streams.items():
            assert packed.rows.dtype is torch.float16
            parts = packed.rows.split(packed.lengths.tolist())
            for clip, rows in zip(batch.ids, parts, strict=True):
                np.testing.assert_array_equal(rows.numpy(), expected[stream][clip])
    assert len(seen) == len(set(seen)) == count


@pytest.mark.slow
def test_one_clip_is_a_tensor_per_stream(stores):
    data = FeatureDataset(stores, ["clip 05", "clip 01"])
    assert len(data) == 2
    found = data[1]
    np.testing.assert_array_equal(found["motion"].numpy(), features("motion")["clip 01"])
    np.testing.assert_array_equal(found["spatial"].numpy(), features("spatial")["clip 01"])


@pytest.mark.slow
def test_clips_that_failed_in_a_stream_are_left_out_or_refused(stores):
    assert len(FeatureDataset(stores)) == CLIPS - 2
    assert len(FeatureDataset({"motion": stores["motion"]})) == CLIPS - 1
    with pytest.raises(StoreError, match="unreadable"):
        FeatureDataset(stores, ["clip 05", "clip 17"])
    with pytest.raises(StoreError, match="no clip"):
        FeatureDataset(stores, [])
    with pytest.raises(UsageError, match="at least one stream"):
        FeatureDataset({})


@pytest.mark.slow
def test_a_split_is_chosen_by_its_name(stores):
    data = FeatureDataset(stores, split="dev")
    assert list(data.ids) == [f"clip {n}" for n in range(20, 30)]
    assert len(FeatureDataset(stores, split="train")) == 18  # one failed in each stream
    with pytest.raises(StoreError, match="no split 'test'") as raised:
        FeatureDataset(stores, split="test")
    assert "dev, train" in str(raised.value)
    with pytest.raises(UsageError, match="exclude each other"):
        FeatureDataset(stores, ["clip 05"], split="train")


@pytest.mark.slow
def test_padded_batches_have_zeros_and_a_mask_where_a_clip_has_no_rows(stores):
    (batch,) = FeatureDataset(stores, split="dev").loader(10, shuffle=False, padded=True)
    for stream, padded in batch.streams.items():
        expected = [features(stream)[clip] for clip in batch.ids]
        assert padded.rows.shape == (10, max(map(len, expected)), expected[0].shape[1])
        assert padded.rows.dtype is torch.float16
        assert padded.mask.dtype is torch.bool
        assert padded.mask.sum(1).tolist() == padded.lengths.tolist() == list(map(len, expected))
        assert not padded.rows[~padded.mask].any()
        for rows, inside, right in zip(padded.rows, padded.mask, expected, strict=True):
            np.testing.assert_array_equal(rows[inside].numpy(), right)


def test_validity_stands_beside_the_rows(stores, tmp_path):
    """Packed and padded; a stream whose store has none says nothing."""
    marks = {clip: np.arange(len(rows)) % 2 == 0 for clip, rows in features("motion").items()}
    marked = written(tmp_path / "marked", "motion", "clip 17", marks)
    data = FeatureDataset({"spatial": stores["spatial"], "motion": marked}, split="dev")
    batch = data.__getitems__([3, 1])
    assert batch.streams["spatial"].valid is None
    expected = [marks["clip 23"], marks["clip 21"]]
    np.testing.assert_array_equal(batch.streams["motion"].valid.numpy(), np.concatenate(expected))
    padded = batch.padded().streams["motion"]
    for mask, valid, right in zip(padded.mask, padded.valid, expected, strict=True):
        np.testing.assert_array_equal(mask[: len(right)].numpy(), right)
        assert torch.equal(mask, valid)
        assert not mask[len(right) :].any()


@pytest.mark.slow
def test_batches_move_whole(stores, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    batch = FeatureDataset(stores, split="dev").__getitems__([3, 1])
    for one in (batch, batch.padded()):
        there = one.to("meta")
        assert there.ids == ["clip 23", "clip 21"]
        assert {part.rows.device.type for part in there.streams.values()} == {"meta"}
        assert one.pin_memory().streams == one.streams
    assert len(pinned) == 2 * 2 * 2


# --- batches, resumed ---------------------------------------------------------------------------


def ids(loader):
    return [batch.ids for batch in loader]


@pytest.fixture
def data(stores):
    return FeatureDataset(stores)


@pytest.mark.slow
def test_epochs_are_permutations_by_seed_and_epoch(data):
    loader, same = data.loader(4, seed=3), data.loader(4, seed=3)
    first, second = ids(loader), ids(loader)
    assert len(loader) == len(first) == 7
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(data.ids)
    assert first != second
    assert first != ids(data.loader(4, seed=4))
    same.set_epoch(1)
    assert ids(same) == second
    assert list(chain(*ids(data.loader(4, shuffle=False)))) == list(data.ids)
    assert [len(batch) for batch in data.loader(5, drop_last=True).batch_sampler] == [5] * 5
    assert [len(batch) for batch in data.loader(5).batch_sampler] == [5] * 5 + [3]


@pytest.mark.slow
def test_processes_share_the_batches_of_an_epoch(data):
    whole = ids(data.loader(4, seed=1))
    shares = [ids(data.loader(4, seed=1, rank=rank, num_replicas=2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 3]
    assert [batch for pair in zip(*shares, strict=True) for batch in pair] == whole[:6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"batch_size": 4, "rank": 2, "num_replicas": 2},
     {"batch_size": 29, "drop_last": True}, {"batch_size": 20, "num_replicas": 3}],
)  # fmt: skip
def test_batches_that_cannot_be_made_are_refused(data, options):
    with pytest.raises(UsageError, match="batch"):
        data.loader(**options)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (3, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_a_state_counts_the_batches_handed_out_however_many_are_prefetched(data, workers, context):
    options = {"num_workers": workers, "multiprocessing_context": context}
    whole = data.loader(4, seed=5)
    epochs = [ids(whole), ids(whole), ids(whole)]
    loader, states = data.loader(4, seed=5, **options), []
    for batch, expected in zip(loader, epochs[0], strict=True):
        assert batch.ids == expected
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert ids(loader) == epochs[1]
    for used, others in ((1, 0), (3, 2), (7, 0)):
        again = data.loader(4, seed=5, num_workers=others)
        again.load_state_dict(states[used - 1])
        rest = [*ids(again), *ids(again)] if used < 7 else [*ids(again)]
        assert rest == [*epochs[0][used:], *epochs[1]]


@pytest.mark.slow
def test_a_loop_that_was_left_goes_on(data):
    epochs = data.loader(4, seed=5)
    first, second = ids(epochs), ids(epochs)
    loader = data.loader(4, seed=5)
    seen = []
    for batch in loader:
        seen.append(batch.ids)
        if len(seen) == 3:
            break
    assert [*seen, *ids(loader)] == first
    for batch in loader:
        if batch.ids == second[-1]:
            break  # at the last one: the epoch is over
    assert ids(loader) == ids(epochs)


@pytest.mark.slow
def test_a_state_of_other_batches_is_refused(stores, data):
    state = data.loader(4, seed=5).state_dict()
    others = [
        data.loader(4, seed=6),
        data.loader(5, seed=5),
        data.loader(4, seed=5, shuffle=False),
        FeatureDataset(stores, split="train").loader(4, seed=5),
    ]
    for other in others:
        with pytest.raises(UsageError, match="other batches"):
            other.load_state_dict(state)
    for broken in ({}, state | {"batches": -1}, state | {"epoch": "1"}):
        with pytest.raises(UsageError, match="no state"):
            data.loader(4, seed=5).load_state_dict(broken)


@pytest.mark.slow
def test_a_sampler_alone_can_be_resumed_as_torchdata_asks_for_it(data):
    """Its loader begins iterators twice, and keeps the state of the sampler and of the iterator."""
    expected = [list(data.sampler(4, seed=2).batches(epoch)) for epoch in (0, 1)]
    sampler = data.sampler(4, seed=2)
    iter(sampler)
    under_way = iter(sampler)
    assert [next(under_way) for _ in range(3)] == expected[0][:3]
    kept = sampler.state_dict(), under_way.state_dict()
    other = data.sampler(4, seed=2)
    other.load_state_dict(kept[0])
    resumed = iter(other)
    resumed.load_state_dict(kept[1])
    assert [*resumed] == expected[0][3:]
    assert list(other) == expected[1]
    # Without prefetching, its own state will do.
    alone = data.sampler(4, seed=2)
    alone.load_state_dict(kept[1])
    assert list(alone) == expected[0][3:]
    assert list(alone) == expected[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers(stores, workers, context):
    data = FeatureDataset(stores)
    data[0]  # used before the workers are made
    loader = DataLoader(
        data,
        4,
        shuffle=True,
        num_workers=workers,
        collate_fn=data.collate,
        multiprocessing_context=context,
    )
    for _ in range(1 if context == "spawn" else 2):  # every epoch starts workers anew
        assert_right(list(loader), CLIPS - 2)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_stores_on_a_web_server_are_read_by_workers_of_every_kind(stores, serve, context):
    root = stores["spatial"].path.parents[1]
    server = serve(root).root
    remote = {
        name: FeatureStore.open(f"{server}/toy/{store.path.name}") for name, store in stores.items()
    }
    data = FeatureDataset(remote)
    assert_right([data.__getitems__(range(len(data)))], CLIPS - 2)
    loader = DataLoader(
        data, 8, num_workers=1, collate_fn=data.collate, multiprocessing_context=context
    )
    assert_right(list(loader), CLIPS - 2)


@pytest.mark.slow
def test_an_error_in_a_worker_names_the_damage(stores):
    data = FeatureDataset({"spatial": stores["spatial"]})
    shard = stores["spatial"].path / "features" / "c.2.0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match="checksum"):
        list(DataLoader(data, 8, collate_fn=data.collate))
