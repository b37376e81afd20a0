"""Copies between roots, and what the inventory lists."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.attributes import load_attributes
from spamo_cache.store.copy import copy
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.inspect import diff, info
from spamo_cache.store.inventory import list_stores, remove, spare_stores
from spamo_cache.store.layout import StreamIdentity, canonical, sha256
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import receipt_path, shard_path
from spamo_cache.store.remote import location
from spamo_cache.store.roots import locate
from spamo_cache.store.verify import verify


@pytest.mark.slow
def test_push_makes_the_same_store_and_then_has_nothing_to_do(material, sealed, tmp_path):
    first = copy(sealed.path, tmp_path / "b")
    assert first.path.relative_to(tmp_path / "b") == sealed.path.relative_to(tmp_path / "root")
    assert first.partitions == {"copied": len(material.partitions)}
    assert diff(sealed.path, first.path) == []
    assert verify(first.path, deep=True).sound
    again = copy(sealed.path, str(tmp_path / "b"))
    assert (again.partitions, again.bytes) == ({"there": len(material.partitions)}, 0)


@pytest.mark.slow
def test_a_cut_copy_goes_on(material, sealed, tmp_path):
    path = copy(sealed.path, tmp_path / "b").path
    receipt_path(path, 0).unlink()
    os.truncate(shard_path(path, 1), 100)
    shutil.rmtree(path / "clips")
    (path / "clips").mkdir()
    assert copy(sealed.path, tmp_path / "b").partitions["copied"] == 2
    assert verify(path, deep=True).sound
    assert FeatureStore.open(path).counts()["ok"] == len(material.keys) - 2


def test_part_of_a_store(sealed, tmp_path):
    store = FeatureStore.open(copy(sealed.path, tmp_path / "b", splits=["test"]).path)
    assert store.select(state="absent") == store.select(split="train")
    store = FeatureStore.open(copy(sealed.path, tmp_path / "c", ids=["手語"]).path)
    assert store.state("手語") == "ok"
    assert store.counts()["absent"] > 0
    for wrong in ({"splits": ["tset"]}, {"ids": ["nobody"]}):
        with pytest.raises(UsageError, match="not in the store"):
            copy(sealed.path, tmp_path / "d", **wrong)


@pytest.mark.slow
def test_different_features_are_never_overwritten(material, sealed, tmp_path):
    material.features["手語"] = material.features["手語"] * 2
    other = material.write(tmp_path / "b")
    before = {f: f.read_bytes() for f in other.path.rglob("*") if f.is_file()}
    with pytest.raises(StoreError, match="other features under the same name"):
        copy(sealed.path, tmp_path / "b")
    assert {f: f.read_bytes() for f in other.path.rglob("*") if f.is_file()} == before
    assert diff(sealed.path, other.path) == ["1 clip with other features: 手語"]


def test_damaged_shards_are_not_copied(sealed, tmp_path):
    shard = shard_path(sealed.path, 0)
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match="disagrees with its receipt"):
        copy(sealed.path, tmp_path / "b")
    assert not shard_path(next((tmp_path / "b").glob("*/*.zarr")), 0).exists()


def test_roots_that_cannot_be_written_and_the_own_root_are_refused(sealed):
    with pytest.raises(UsageError, match="for reading"):
        copy(sealed.path, "https://host/features")
    with pytest.raises(UsageError, match="in that root already"):
        copy(sealed.path, sealed.path.parents[1])


# --- remote roots -------------------------------------------------------------------------------


def files_of(path) -> dict[str, bytes]:
    """All files of a store, local or remote."""
    if isinstance(path, Path):
        found = [file for file in path.rglob("*") if file.is_file()]
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}
    return {name: (path / name).read(size) for name, size in path.files().items()}


@pytest.mark.slow
def test_a_store_goes_to_s3_and_back_byte_for_byte(material, sealed, s3, tmp_path):
    there = copy(sealed.path, s3.root)
    assert str(there.path).startswith(f"{s3.root}/weather/spatial-")
    assert there.partitions == {"copied": len(material.partitions)}
    assert files_of(there.path) == files_of(sealed.path)
    back = copy(there.path, tmp_path / "b")
    assert files_of(back.path) == files_of(sealed.path)
    assert verify(back.path, deep=True).sound
    s3.requests.clear()
    assert copy(sealed.path, s3.root).partitions == {"there": len(material.partitions)}
    assert not [
        asked for asked in s3.requests if asked.startswith("PUT") and "zarr.json" not in asked
    ]


@pytest.mark.slow
def test_a_store_is_pulled_from_a_web_server(sealed, serve, tmp_path):
    server = serve(tmp_path / "root", pages=False)
    remote = location(f"{server.root}/weather/{sealed.path.name}")
    assert files_of(copy(remote, tmp_path / "b").path) == files_of(sealed.path)


@pytest.mark.slow
def test_part_of_a_store_in_s3_grows(sealed, s3, tmp_path):
    partial = copy(sealed.path, s3.root, splits=["test"])
    here = copy(partial.path, tmp_path / "b")
    store = FeatureStore.open(here.path)
    assert store.select(state="absent") == store.select(split="train")
    assert copy(sealed.path, s3.root).partitions["there"] == partial.partitions["copied"]
    assert files_of(partial.path) == files_of(sealed.path)
    one = copy(partial.path, tmp_path / "c", ids=["手語"])
    assert sum(one.partitions.values()) == 1
    assert one.clips == sum(
        FeatureStore.open(one.path).counts()[state] for state in ("ok", "failed")
    )


@pytest.mark.slow
def test_terms_must_be_accepted_before_a_store_leaves(make, s3, tmp_path):
    material = make()
    writer = material.open(tmp_path / "root", terms="research only")
    for partition in material.partitions:
        material.publish(writer, partition)
    writer.commit_index()
    with pytest.raises(UsageError, match="research only"):
        copy(writer.path, s3.root)
    assert location(s3.root).files() == {}
    copy(writer.path, tmp_path / "b")
    there = copy(writer.path, s3.root, accept_terms=True)
    assert copy(there.path, tmp_path / "c").partitions


@pytest.mark.slow
def test_different_features_in_s3_are_never_overwritten(make, s3, tmp_path):
    ours, other = make(), make()
    there = copy(ours.write(tmp_path / "a").path, s3.root).path
    before = files_of(there)
    other.features["手語"] = other.features["手語"] * 2
    changed = other.write(tmp_path / "b")
    with pytest.raises(StoreError, match="1 partition holds other features"):
        copy(changed.path, s3.root)
    assert files_of(there) == before


@pytest.mark.slow
def test_another_plan_under_the_same_name_is_refused(make, s3, tmp_path):
    ours, other = make(), make()
    there = copy(ours.write(tmp_path / "a").path, s3.root).path
    before = files_of(there)
    other.slots = [replace(slot, split="all", partition=slot.partition) for slot in other.slots]
    with pytest.raises(StoreError, match="other partitions"):
        copy(other.write(tmp_path / "b").path, s3.root)
    assert files_of(there) == before


@pytest.mark.slow
def test_what_a_cut_push_left_is_used_or_left_alone(sealed, s3):
    copied = copy(sealed.path, s3.root).path
    whole = files_of(copied)
    for name in ("zarr.json", "clips/zarr.json", "receipts/0.json", "receipts/1.json"):
        (copied / name).delete()
    (copied / "features/c.1.0").delete()
    # Of somebody else, without a receipt: neither trusted nor overwritten.
    (copied / "features/c.1.0").create(b"x" * len(whole["features/c.1.0"]))
    with pytest.raises(StoreError, match="1 partition is being written by somebody else"):
        copy(sealed.path, s3.root)
    (copied / "features/c.1.0").delete()
    assert copy(sealed.path, s3.root).partitions["copied"] == 1
    assert files_of(copied) == whole


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["id/c.0.0", "zarr.json", "../zarr.json"])
def test_an_index_that_a_server_has_lost_is_made_again(sealed, s3, lost):
    there = copy(sealed.path, s3.root).path
    whole = files_of(there)
    (generation,) = {name.split("/")[1] for name in whole if name.count("/") == 3}
    place = "clips/zarr.json" if lost.startswith("..") else f"clips/{generation}/{lost}"
    (there / place).delete()
    with pytest.raises(DamagedError, match="a file of the store is missing"):
        FeatureStore.open(there)
    assert "copied" not in copy(sealed.path, s3.root).partitions
    assert files_of(there) == whole


@pytest.mark.slow
def test_damaged_shards_do_not_travel(sealed, s3, tmp_path):
    there = copy(sealed.path, s3.root).path
    shard = there / "features/c.0.0"
    data = bytearray(shard.read(1 << 20))
    data[10] ^= 1
    shard.delete()
    shard.create(data)
    with pytest.raises(DamagedError, match="disagrees with its receipt"):
        copy(there, tmp_path / "b")
    assert not list((tmp_path / "b").glob("*/*.zarr/features/c.0.0"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 1 << 22])
def test_a_server_that_sends_other_sizes_is_not_believed(sealed, s3, tmp_path, size):
    there = copy(sealed.path, s3.root).path
    (there / "features/c.0.0").delete()
    (there / "features/c.0.0").create(b"x" * size)
    with pytest.raises(DamagedError, match="disagrees with its receipt"):
        copy(there, tmp_path / "b")
    (copied,) = (tmp_path / "b").glob("*/*.zarr")
    assert not (copied / "features/c.0.0").exists()
    assert not list((tmp_path / "b").rglob("shard"))
    store, every = FeatureStore.open(copied), FeatureStore.open(sealed.path)
    assert {slot.partition for slot in store.slots() if store.state(slot.id) == "absent"} == {0}
    assert store.read(["手語"])[0].shape == every.read(["手語"])[0].shape
    assert not [path for path in tmp_path.iterdir() if path.name not in {"root", "b"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [("corpus", "../../etc"), ("stream", "a/b"), ("clips", 10**12), ("shard_rows", 2**40)],
)
def test_a_store_that_lies_about_itself_is_refused(sealed, s3, tmp_path, key, value):
    there = copy(sealed.path, s3.root).path
    known = json.loads((there / "zarr.json").read(1 << 20))
    about = {**known["attributes"]["spamo_cache"], key: value}
    del about["sha256"]
    about["sha256"] = sha256(canonical(about))
    known["attributes"]["spamo_cache"] = about
    (there / "zarr.json").delete()
    (there / "zarr.json").create(canonical(known))
    with pytest.raises(DamagedError, match=key):
        copy(there, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_two_pushes_at_once_leave_an_index_of_all(sealed, s3, monkeypatch):
    """While one is about to move the pointer, the other finishes: nothing of it is forgotten."""
    first, swap = copy(sealed.path, s3.root, splits=["test"]), type(location(s3.root)).swap
    ids = FeatureStore.open(sealed.path).select(split="train")

    def late(path, tag, data):
        monkeypatch.setattr(type(path), "swap", swap)
        copy(sealed.path, s3.root, ids=ids[:1])
        return swap(path, tag, data)

    monkeypatch.setattr(type(first.path), "swap", late)
    copy(sealed.path, s3.root, ids=ids[-1:])
    assert s3.requests
    back = ids[:1] + ids[-1:]
    index = ClipIndex.open(first.path, load_attributes(first.path))
    assert (index.state[index.ids.positions(back)] > 0).all()


@pytest.mark.slow
def test_a_root_of_a_group_stays_the_groups(material, tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder, mode in ((shared, 0o2775), (own, 0o755)):
        folder.mkdir()
        folder.chmod(mode)
        material.write(folder)
        copied = copy(next(folder.glob("*/*.zarr")), tmp_path / f"{folder.name}-copy")
        assert copied.partitions
    wrong = [p for p in shared.rglob("*") if not p.stat().st_mode & 0o020]
    assert wrong == []
    assert not [p for p in own.rglob("*") if p.stat().st_mode & 0o020]


# --- inventory ----------------------------------------------------------------------------------


def test_list_locate_info_remove(material, sealed, tmp_path):
    roots = [str(tmp_path / "none"), str(tmp_path / "root")]
    (entry,) = list_stores(roots[1:])
    assert (entry.corpus, entry.stream, entry.path) == ("weather", "spatial", sealed.path)
    assert entry.states["failed"] == 2
    for name in ("weather", "weather/spatial", f"weather/{sealed.path.stem}", str(sealed.path)):
        assert locate(name, roots) == sealed.path
    for name in ("weather/motion", "../root/weather/spatial", "weath", "", "none/weather"):
        with pytest.raises(UsageError, match=r"no store|no such folder"):
            locate(name, roots)
    known = info(sealed.path)
    assert known["states"]["ok"] == len(material.keys) - 2
    assert known["failures"] == material.failures
    assert known["partitions_done"] == len(material.partitions)
    (made,) = known["made_by"]
    assert f"{len(material.partitions)} partitions" in made
    remove(sealed.path)
    assert list((tmp_path / "root" / "weather").rglob("*.zarr")) == []
    with pytest.raises(UsageError, match="no feature store here"):
        remove(sealed.path)


@pytest.mark.slow
def test_remote_stores_are_listed_found_and_told_of(material, sealed, s3, serve, tmp_path):
    there = copy(sealed.path, s3.root).path
    web = serve(tmp_path / "root").root
    elsewhere = serve(tmp_path, pages=False).root
    first, second, third = list_stores([s3.root, web, elsewhere])
    assert first.path == there
    assert str(second.path) == f"{web}/weather/{sealed.path.name}"
    assert (first.states, first.created_by) == (second.states, second.created_by)
    assert (first.bytes, second.bytes) == (sum(map(len, files_of(there).values())), None)
    assert "no list of its folders" in str(third.damaged)
    assert locate("weather/spatial", [str(tmp_path / "none"), s3.root]) == there
    assert locate("weather/spatial", [s3.root, str(tmp_path / "root")]) == sealed.path
    assert locate(str(there), []) == there
    web = location(f"{elsewhere}/root/weather/{sealed.path.name}")
    here, on_s3, on_web = (_known(path) for path in (sealed.path, there, web))
    assert here == on_s3
    assert {**on_web, "bytes": here["bytes"]} == here
    assert diff(there, sealed.path) == []
    with pytest.raises(UsageError, match="not removed from here"):
        remove(there)


def _known(path):
    return {name: value for name, value in info(path).items() if name not in {"path", "root"}}


@pytest.mark.slow
def test_unrelated_names_in_a_root_are_passed_over(sealed, s3, tmp_path):
    there = copy(sealed.path, s3.root).path
    root = location(s3.root)
    for name in (
        "weather/../../etc/spatial-0123456789ab.zarr/zarr.json",
        "weather/notes.txt",
        "weather/spatial.zarr/zarr.json",
        "weather/spatial-0123456789ab.zarr.bak/zarr.json",
        f"{'w' * 80}/spatial-0123456789ab.zarr/zarr.json",
        "we ather/spatial-0123456789ab.zarr/zarr.json",
        "weather/spa\ntial-0123456789ab.zarr/zarr.json",
    ):
        with suppress(StoreError):
            (root / name).create(b"{}")
    assert [entry.path for entry in list_stores([s3.root])] == [there]


@pytest.mark.slow
def test_keys_that_are_no_paths_are_one_clear_error(sealed, s3):
    import boto3

    copy(sealed.path, s3.root)
    bucket = location(s3.root).parent.name
    evil = "shared features/weather/../../etc/spatial-0123456789ab.zarr/zarr.json"
    boto3.client("s3").put_object(Bucket=bucket, Key=evil, Body=b"{}")
    (entry,) = list_stores([s3.root])
    assert "invalid path" in str(entry.damaged)


@pytest.mark.slow
def test_a_cut_push_is_listed_as_such_and_never_read(sealed, s3):
    there = copy(sealed.path, s3.root).path
    (there / "zarr.json").delete()
    (entry,) = list_stores([s3.root])
    assert "no feature store" in str(entry.damaged)
    with pytest.raises(StoreError, match="no feature store"):
        FeatureStore.open(there)


def test_stores_behind_links_are_not_removed(sealed, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weather").symlink_to(sealed.path.parent)
    (tmp_path / "third" / "weather").mkdir(parents=True)
    (tmp_path / "third" / "weather" / sealed.path.name).symlink_to(sealed.path)
    for folder in ("other", "third"):
        with pytest.raises(UsageError, match="through a link"):
            remove(tmp_path / folder / "weather" / sealed.path.name)
    assert FeatureStore.open(sealed.path)


def test_damaged_stores_are_listed_as_such(sealed, tmp_path):
    (sealed.path / "zarr.json").write_text("{")
    (entry,) = list_stores([str(tmp_path / "root")])
    assert entry.damaged is not None
    assert (entry.corpus, entry.stream) == ("weather", "spatial")


def test_several_stores_of_a_name_are_told(make, tmp_path):
    for clips in (8, 9):
        make(clips).write(tmp_path / "root")
    with pytest.raises(UsageError, match="may be several"):
        locate("weather/spatial", [str(tmp_path / "root")])


def _spare(root, used=None):
    return {spare.entry.path: (spare.why, spare.kept) for spare in spare_stores(root, used or {})}


@pytest.mark.slow
def test_superseded_and_unfinished_stores_are_spare(make, tmp_path, monkeypatch):
    small, grown, other = make(20, failed=0), make(24, failed=0), make(24, failed=0)
    other.identity = StreamIdentity({"encoder": "random", "stride": 4}, "ab" * 32, 1)
    keys = {key.id: key for key in grown.keys}
    small.keys = [keys[key.id] for key in small.keys]  # the corpus has grown by four clips
    with monkeypatch.context() as patch:
        patch.setattr("spamo_cache.store.attributes.now", lambda: "2020-01-01T00:00:00+00:00")
        old = small.write(tmp_path)
    new, begun, root = grown.write(tmp_path), other.open(tmp_path), str(tmp_path)
    other.publish(begun, other.partitions[0])
    done = len(begun.slots(other.partitions[0]))
    assert _spare(root) == {
        old.path: (f"superseded by weather/{new.path.stem}", None),
        begun.path: (f"unfinished: {done} of 24 clips", None),
    }
    used = _spare(root, {old.fingerprint: "runs/a was trained from it"})
    assert used[old.path][1] == "runs/a was trained from it"
    with begun.presence():
        assert "is at work on it" in _spare(root)[begun.path][1]
        with pytest.raises(StoreError, match="is being written"):
            remove(begun.path)
    for partition in other.partitions:
        if begun.slots(partition)[0].split == "test":
            other.publish(begun, partition)
    begun.commit_index()
    assert begun.path not in _spare(root)  # nobody asked for the other split
    with pytest.raises(UsageError, match="remote roots"):
        spare_stores("https://lab.example/features", {})


@pytest.mark.slow
def test_stores_with_something_of_their_own_are_not_spare(make, tmp_path, monkeypatch):
    """Of another crop; of other weights; the only one with features of a clip."""
    one, cropped, other, fewer = (make(failed=failed) for failed in (0, 0, 0, 1))
    cropped.keys[5] = replace(cropped.keys[5], crop=(0.0, 0.0, 0.5, 0.5))
    other.identity = replace(other.identity, weights_sha256="cd" * 32)
    fewer.keys[5] = replace(fewer.keys[5], size=5)
    for day, material in enumerate((one, cropped, other, fewer), start=1):
        created = f"2020-01-0{day}T00:00:00+00:00"
        monkeypatch.setattr("spamo_cache.store.attributes.now", lambda created=created: created)
        material.write(tmp_path)
    assert _spare(str(tmp_path)) == {}
    again = make(failed=0)
    again.keys[5] = replace(again.keys[5], size=6)  # the video was replaced
    newest = again.write(tmp_path)
    assert {why for why, _ in _spare(str(tmp_path)).values()} == {
        f"superseded by weather/{newest.path.stem}"
    }
    assert len(_spare(str(tmp_path))) == 1


@pytest.mark.slow
def test_diff_says_why_in_words(make, tmp_path):
    first, second = make(20, failed=0), make(24)
    second.keys[3] = replace(second.keys[3], size=5)
    second.keys[4] = replace(second.keys[4], source="videos/other.mp4")
    second.identity = StreamIdentity({"encoder": "random", "stride": 4}, "ba" * 32, 2)
    second.features = {clip: rows + 1 for clip, rows in second.features.items()}
    a, b = first.write(tmp_path).path, second.write(tmp_path).path
    said = "\n".join(diff(a, b))
    for words in (
        "stride 8 against 4",
        "other weights: random (abababababab) against random (babababababa)",
        "mean different things by the same spec: semantics 1 against 2",
        "4 clips only in the second: clip 018, clip 019, clip 020, ...",
        "3 clips from another file: clip 004, Ärger",
        "3 clips with a source of another size: clip 003, Ärger",
        "2 clips failed only in the second: clip 001, clip 002",
        "clips with other features",
    ):
        assert words in said
    assert diff(a, a) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": 0.25}, "1 clip with another start: clip 000"),
        ({"end": None}, "1 clip with another end: clip 000"),
        ({"crop": None}, "1 clip cropped otherwise: clip 000"),
        ({"size": 1}, "1 clip with a source of another size: clip 000"),
    ],
)
def test_one_changed_clip_is_named_and_nothing_else(make, tmp_path, change, words):
    first, second = make(), make()
    second.keys[0] = replace(second.keys[0], **change)
    assert diff(first.write(tmp_path).path, second.write(tmp_path).path) == [words]


def test_dtype_manifest_and_split_are_reasons(make, tmp_path):
    first, second = make(), make()
    single = StreamIdentity({**first.identity.spec, "dtype": "float32"}, "ab" * 32, 1)
    second.identity = single
    a = first.open(tmp_path, manifest=b"one")
    b = second.open(tmp_path, manifest=b"two", dtype="float32")
    assert diff(a.path, b.path) == [
        "dtype float16 against float32",
        "made from different versions of the manifest: its sentences may differ, too",
    ]
    third = make()
    third.slots = [replace(slot, split=slot.split.upper()) for slot in third.slots]
    c = third.open(tmp_path / "other", manifest=b"one")
    assert diff(a.path, c.path) == ["24 clips in another split: clip 000, clip 001, clip 002, ..."]


@pytest.mark.slow
def test_checksums_are_those_of_the_features(sealed, tmp_path):
    store = FeatureStore.open(sealed.path)
    assert store.checksums().keys() == set(store.select(state="ok"))
    other = FeatureStore.open(copy(sealed.path, tmp_path / "b").path)
    for clip in other.checksums():
        np.testing.assert_array_equal(other.read([clip])[0], store.read([clip])[0])
