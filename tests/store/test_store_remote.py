"""Files of remote roots, against real servers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import asdict

import pytest

from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.inventory import StoreEntry
from spamo_cache.store.remote import RemotePath, location


def remote(server, name="weather/a.json"):
    return location(server.root) / name


# --- S3 -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_is_created_once_and_read_whole_or_in_parts(s3):
    file = remote(s3)
    assert not file.exists()
    assert file.tag() is None
    assert file.create(b"0123456789")
    assert not file.create(b"other")
    assert (file.read(10), file.size(), file.exists()) == (b"0123456789", 10, True)
    assert [bytes(part) for part in file.ranges([2, 8], [4, 10])] == [b"23", b"89"]
    assert b"".join(map(bytes, file.blocks(10))) == b"0123456789"
    file.delete()
    file.delete()
    assert not file.exists()


def test_contents_are_swapped_only_by_who_has_seen_them(s3):
    file = remote(s3)
    file.create(b"one")
    tag = file.tag()
    assert tag is not None
    assert file.swap(tag, b"two")
    assert not file.swap(tag, b"three")
    assert file.read(9) == b"two"


def test_servers_without_conditions_are_served_as_well_as_they_can_be(s3, monkeypatch):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    monkeypatch.setattr("spamo_cache.store.remote._clients", {})
    file = remote(s3)
    assert file.create(b"one")
    assert not file.create(b"two")
    assert file.swap("whatever", b"three")
    assert file.read(9) == b"three"


def test_what_is_missing_too_large_or_cut_is_damage(s3):
    file = remote(s3)
    for ask in (
        lambda: file.read(9),
        file.size,
        lambda: file.ranges([0], [1]),
        lambda: list(file.blocks(10)),
    ):
        with pytest.raises(DamagedError, match="missing"):
            ask()
    file.create(b"0123456789")
    with pytest.raises(DamagedError, match="larger than the 9 bytes"):
        file.read(9)
    with pytest.raises(DamagedError, match="ends before byte 11"):
        file.ranges([0, 5], [2, 11])


def test_folders_and_files_are_listed(s3):
    root = location(s3.root)
    assert root.folders() == []
    names = ["a/x/1", "a/x/2", "a-b/1", "a.b/1", "a0/1", "flat", "ü/1"]
    for name in names:
        (root / name).create(b"12")
    assert root.folders() == ["a", "a-b", "a.b", "a0", "ü"]
    assert (root / "a").folders() == ["x"]
    assert (root / "a").files() == {"x/1": 2, "x/2": 2}


@pytest.mark.slow
def test_a_folder_of_many_files_costs_few_requests_and_one_without_end_is_refused(s3, monkeypatch):
    monkeypatch.setattr("spamo_cache.store.remote._LISTED", 5)
    root = location(s3.root)
    for number in range(40):
        (root / f"corpus/shard-{number}").create(b"")
    (root / "other/1").create(b"")
    assert root.folders() == ["corpus", "other"]
    monkeypatch.setattr("spamo_cache.store.remote._MAX_LISTS", 4)
    with pytest.raises(StoreError, match="unrelated files"):
        (root / "corpus").folders()


def test_a_whole_bucket_may_be_a_root(s3):
    bucket = location(s3.root).parent
    (bucket / "weather/1").create(b"1")
    assert bucket.folders() == ["weather"]
    assert bucket.files() == {"weather/1": 1}


# --- HTTP ---------------------------------------------------------------------------------------


def test_a_web_server_with_ranges_can_be_read_from(serve, tmp_path):
    (tmp_path / "a b" / "weather").mkdir(parents=True)
    (tmp_path / "a b" / "weather" / "a.json").write_bytes(b"0123456789")
    server = serve(tmp_path)
    root = location(f"{server.root}/a%20b/")
    assert root.folders() == ["weather"]
    file = root / "weather" / "a.json"
    assert (file.exists(), file.size(), file.read(10)) == (True, 10, b"0123456789")
    assert bytes(file.ranges([3], [5])[0]) == b"34"
    assert not (root / "none").exists()
    with pytest.raises(DamagedError, match="missing"):
        (root / "none").read(10)


def test_a_web_server_without_ranges_or_lists_is_told_so(serve, tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    root = location(serve(tmp_path, ranges=False, pages=False).root)
    assert (root / "a").read(10) == b"0123456789"
    with pytest.raises(StoreError, match="no ranges"):
        (root / "a").ranges([3], [5])
    with pytest.raises(StoreError, match="no list of its folders"):
        root.folders()


# --- addresses, errors, processes ---------------------------------------------------------------


def test_an_address_is_a_value_like_a_path(tmp_path):
    path = location("s3://lab/features/") / "weather" / "spatial-0.zarr"
    assert str(path) == "s3://lab/features/weather/spatial-0.zarr"
    assert (path.name, path.stem, path.suffix) == ("spatial-0.zarr", "spatial-0", ".zarr")
    assert (path.parent.name, path.key) == ("weather", "features/weather/spatial-0.zarr")
    assert pickle.loads(pickle.dumps(path)) == path  # noqa: S301
    assert asdict(StoreEntry("", path, "", "", "", {}, None, "", ""))["path"] == path
    assert {path, location(str(path))} == {path}
    assert location(path) is path
    assert location(str(tmp_path)) == location(tmp_path) == tmp_path
    assert location("~/x").is_absolute()
    assert (path.writable, location("https://host/x").writable) == (True, False)


@pytest.mark.parametrize(
    "text",
    [
        *("gs://lab/x", "file:///etc", "s3://", "https://me:secret@host/x", "https://h/x?y=1"),
        *("http://[::1", "http://h:port/x", "http://h:99999/x", "https://:80/x", "://x"),
    ],
)
def test_other_addresses_are_refused_without_telling_passwords(text):
    with pytest.raises(UsageError) as refused:
        location(text)
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("spamo_cache.store.remote._RETRIES", 0)
    with pytest.raises(StoreError, match="does not answer") as told:
        location("http://127.0.0.1:9/x").read(1)
    assert len(str(told.value)) < 700


def test_without_obstore_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match=r"\[remote\]"):
        RemotePath("s3://lab/x").read(1)


FORKED = """
import os, sys
from spamo_cache.errors import StoreError
from spamo_cache.store.inventory import StoreEntry
from spamo_cache.store.remote import location
file = location(sys.argv[1])
child = os.fork()
if child == 0:
    os._exit(0 if file.read(9) == b"one" else 1)
assert os.waitpid(child, 0)[1] == 0
file.read(9)
child = os.fork()
if child == 0:
    try:
        file.read(9)
    except StoreError as error:
        os._exit(0 if "spawn" in error.remedy else 2)
    os._exit(3)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_forked_processes_read_or_say_that_they_cannot(s3):
    remote(s3).create(b"one")
    command = [sys.executable, "-c", FORKED, str(remote(s3))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
