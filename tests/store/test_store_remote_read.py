"""Reading from remote roots: one request per clip, and the same checks as on a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.copy import copy
from spamo_cache.store.inventory import by_fingerprint, find
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import shard_path
from spamo_cache.store.writer import StoreWriter


@pytest.fixture
def written(make, tmp_path) -> tuple[dict[str, np.ndarray], StoreWriter]:
    """Features, and a store of them with shards enough."""
    material = make(60, failed=1)
    return material.features, material.write(tmp_path / "root")


def address(root: str, path: Path) -> str:
    return f"{root}/{path.parent.name}/{path.name}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["http", "s3"])
def test_one_request_per_clip(written, serve, s3, kind):
    features, writer = written
    server = s3 if kind == "s3" else serve(writer.path.parents[1])
    if kind == "s3":
        copy(writer.path, server.root)
    store = FeatureStore.open(address(server.root, writer.path))
    ids = store.select(state="ok")
    assert store.counts() == FeatureStore.open(writer.path).counts()
    server.requests.clear()
    for clip in ids:
        np.testing.assert_array_equal(store.read([clip])[0], features[clip])
    assert len(server.requests) == len(ids)
    server.requests.clear()
    for clip, rows in zip(ids, store.read(ids), strict=True):
        np.testing.assert_array_equal(rows, features[clip])
    assert len(server.requests) <= len(ids)


@pytest.mark.slow
def test_many_clips_at_once_in_any_order(written, serve):
    features, writer = written
    store = FeatureStore.open(address(serve(writer.path.parents[1]).root, writer.path))
    ids = [*store.select(state="ok")[::-3], *store.select(state="ok")[:2]]
    buffer = np.empty((sum(map(store.rows, ids)), store.width), store.dtype)
    offsets = store.read_into([*ids, ids[0]][:-1], buffer)
    for clip, start, end in zip(ids, offsets, offsets[1:], strict=False):
        np.testing.assert_array_equal(buffer[start:end], features[clip])
    assert store.checksums() == FeatureStore.open(writer.path).checksums()
    assert store.clip_keys() == FeatureStore.open(writer.path).clip_keys()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("flip", "disagree with their checksum"),
        ("cut", "ends before byte"),
        ("empty", "gives no ranges|ends before byte"),
        ("missing", "a file of the store is missing"),
        ("other", "holds other features than were published"),
    ],
)
def test_damage_is_found(written, serve, damage, words):
    _, writer = written
    store = FeatureStore.open(address(serve(writer.path.parents[1]).root, writer.path))
    file = shard_path(writer.path, 0)
    whole = file.read_bytes()
    clips = {slot.id for slot in store.slots() if slot.partition == 0}
    clip = next(clip for clip in store.select(state="ok") if clip in clips)
    if damage == "flip":
        place = next(slot.row for slot in store.slots() if slot.id == clip) // 4 * 100 + 7
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif damage == "other":
        other = next(
            p for p in range(1, 9) if shard_path(writer.path, p).stat().st_size >= len(whole)
        )
        file.write_bytes(shard_path(writer.path, other).read_bytes())
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(whole[: 50 if damage == "cut" else 0])
    # Of an empty file, a server may well say that it has no ranges.
    with pytest.raises(StoreError if damage == "empty" else DamagedError, match=words):
        store.read([clip])


@pytest.mark.slow
def test_a_damaged_index_is_found(written, serve):
    _, writer = written
    server = serve(writer.path.parents[1])
    column = next((writer.path / "clips").glob("*/checksum/c.0"))
    column.write_bytes(b"\1" + column.read_bytes()[1:])
    with pytest.raises(DamagedError, match="column"):
        FeatureStore.open(address(server.root, writer.path))


@pytest.mark.slow
def test_find_looks_into_remote_roots(written, serve, tmp_path, caplog):
    _, writer = written
    server = serve(writer.path.parents[1])
    spec = writer.attributes.spec
    roots = [tmp_path / "none", server.root, writer.path.parents[1]]
    found = find(roots, "weather", "spatial", spec=spec)
    assert [str(place) for place in found] == [
        address(server.root, writer.path),
        str(writer.path),
    ]
    assert find(["http://127.0.0.1:9"], "weather", "spatial", spec=spec) == []
    assert "passed over a root" in caplog.text


def test_a_store_that_moved_to_a_web_server_is_found_by_its_name(written, serve):
    """Though the server lists no folders."""
    _, writer = written
    server = serve(writer.path.parents[1], pages=False)
    found = by_fingerprint(
        [server.root], writer.fingerprint, hint=f"/gone/weather/{writer.path.name}"
    )
    assert found.fingerprint == writer.fingerprint
    assert str(found.path) == address(server.root, writer.path)
