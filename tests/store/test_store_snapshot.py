"""The manifest in the store: written with it, carried along, checked, never exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.attributes import load_attributes, load_manifest
from spamo_cache.store.copy import copy
from spamo_cache.store.layout import sha256
from spamo_cache.store.remote import location
from spamo_cache.store.verify import repair, verify

FIRST, SECOND = b"PAR1 the first manifest", b"PAR1 a corrected sentence"


def kept(path) -> bytes:
    return load_manifest(path, load_attributes(path))


def test_a_store_keeps_the_manifest_it_was_made_with(material, tmp_path):
    path = material.open(tmp_path, manifest=FIRST).path
    about = load_attributes(path)
    assert (path / "manifest.parquet").read_bytes() == FIRST
    assert (about.manifest_sha256, about.manifest_bytes) == (sha256(FIRST), len(FIRST))
    assert material.open(tmp_path, manifest=SECOND).path == path
    assert kept(path) == FIRST
    assert verify(path, deep=True).sound


def test_a_store_without_a_manifest_has_no_such_file(material, tmp_path):
    path = material.open(tmp_path, manifest=b"").path
    assert not (path / "manifest.parquet").exists()
    assert load_attributes(path).manifest_sha256 == ""
    assert verify(path, deep=True).sound
    assert not (copy(path, tmp_path / "b").path / "manifest.parquet").exists()


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(FIRST[:-1])


def huge(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(1 << 40)


def link(file: Path) -> None:
    outside = file.parents[2] / "outside"
    outside.write_bytes(FIRST)
    file.unlink()
    file.symlink_to(outside)


def exchange(file: Path) -> None:
    file.write_bytes(FIRST[::-1])


@pytest.mark.parametrize(
    ("harm", "words", "refusal"),
    [
        (lose, "missing", "the file is missing"),
        (cut, "bytes, not", "is not the manifest"),
        (huge, "bytes, not", "is larger than the"),
        (link, "regular", "cannot be opened"),
        (exchange, "is not the manifest", "is not the manifest"),
    ],
)
def test_a_lost_or_damaged_snapshot_is_told_and_put_back(material, tmp_path, harm, words, refusal):
    path = material.open(tmp_path, manifest=FIRST).path
    harm(path / "manifest.parquet")
    with pytest.raises(StoreError, match=refusal):
        kept(path)
    # One of the same size is found by its hash alone.
    assert verify(path).sound == (harm is exchange)
    report = verify(path, deep=True)
    (problem,) = report.problems
    assert words in problem
    assert "to do: extract or pull again" in problem
    repair(report)
    material.open(tmp_path, manifest=SECOND)
    assert not verify(path, deep=True).sound
    material.open(tmp_path, manifest=FIRST)
    assert kept(path) == FIRST
    assert not (path / "manifest.parquet").is_symlink()
    assert verify(path, deep=True).sound


@pytest.mark.slow
def test_features_are_copied_where_the_snapshot_cannot_be(sealed, s3, tmp_path):
    mine = copy(sealed.path, tmp_path / "b").path
    (sealed.path / "manifest.parquet").write_bytes(b"x")
    for root in (s3.root, tmp_path / "c"):
        with pytest.raises(DamagedError, match="is not the manifest"):
            copy(sealed.path, root)
        there = location(root) / "weather" / sealed.path.name
        assert not (there / "manifest.parquet").exists()
        # A sound copy makes it whole.
        assert set(copy(mine, root).partitions) == {"there"}
        assert kept(there) == kept(mine)


@pytest.mark.slow
@pytest.mark.parametrize("remote", [True, False])
def test_a_store_with_another_snapshot_keeps_its_own(material, s3, tmp_path, remote):
    root = s3.root if remote else tmp_path / "shared"
    first = material.open(tmp_path / "a", manifest=FIRST).path
    second = material.open(tmp_path / "b", manifest=SECOND).path
    there = copy(first, root).path
    copy(second, root)
    assert kept(there) == FIRST


@pytest.mark.slow
def test_a_push_that_was_cut_leaves_the_first_snapshot(material, s3, tmp_path):
    """Its store has not appeared; the one that does says what is there."""
    path = material.write(tmp_path).path
    there = location(s3.root) / "weather" / path.name
    assert (there / "manifest.parquet").create(FIRST)
    copy(path, s3.root)
    assert kept(there) == FIRST
    assert kept(copy(there, tmp_path / "c").path) == FIRST


@pytest.mark.slow
def test_the_snapshot_is_there_before_the_store_is(sealed, s3):
    copy(sealed.path, s3.root)
    name = sealed.path.name
    puts = [a.partition(name)[2].partition("?")[0] for a in s3.requests if a.startswith("PUT")]
    assert puts.index("/manifest.parquet") < puts.index("/zarr.json")
