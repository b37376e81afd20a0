"""A store goes on with the partitions it was begun with, whatever disk and splits say later."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import zarr

from spamo_cache.config import CacheSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import StoreError
from spamo_cache.extract import executors, worker
from spamo_cache.extract.extraction import extract
from spamo_cache.store.copy import copy
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
VIDEO = "e/clip.mp4"
BYTES = 40_000

Go = Callable[..., Any]
Show = Callable[[int], None]
Receipts = dict[str, bytes]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Frames -> a video of so many, all of them of one size; 0 is one that cannot be read."""
    found = {0: bytes(BYTES)}
    for frames in (9, 16, 40):
        path = tmp_path_factory.mktemp("videos") / "clip.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
            for k in range(frames):
                picture = np.full((32, 40, 3), 3 * k + frames, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        data = path.read_bytes()
        free = BYTES - len(data)  # a box that says that it holds nothing
        found[frames] = data + free.to_bytes(4, "big") + b"free" + bytes(free - 8)
    return found


@pytest.fixture
def root(corpus: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def show(root: Path, videos: dict[int, bytes]) -> Show:
    """Let the video have so many frames from now on."""
    return lambda frames: (root / VIDEO).write_bytes(videos[frames]) and None


@pytest.fixture
def clips(manifest: Any) -> Any:
    """The toy corpus with a video in its training split, in a partition with others."""
    rows = [
        replace(clip, source=VIDEO, split="train") if clip.id == "clip-e" else clip
        for clip in manifest.clips()
    ]
    return Manifest.from_clips(manifest.corpus, rows)


@pytest.fixture
def go(root: Path, clips: Any, spec: CacheSpec, tmp_path: Path) -> Go:
    def run(**changes: Any) -> Any:
        given = {"manifest": clips, "root": root, "spec": spec, "spec_base": GOLDEN}
        options = {"store_root": tmp_path / "features", "executor": "serial", "device": "cpu"}
        return extract(**{**given, **options, **changes})

    return run


def receipts(summary: Any) -> Receipts:
    return {
        str(file): file.read_bytes()
        for store in summary.stores.values()
        for file in store.glob("receipts/[0-9]*.json")
    }


def read(summary: Any, ids: list[str]) -> list[Any]:
    stores = [FeatureStore.open(store) for store in summary.stores.values()]
    return [rows for store in stores for rows in store.read(ids)]


def assert_whole(go: Go, clips: Any, summary: Any, tmp_path: Path) -> None:
    """All clips are there, as they are on the disk now, for our readers and for plain Zarr's."""
    fresh = go(store_root=tmp_path / "fresh")
    ids = [clip.id for clip in clips.clips()]
    for ours, theirs in zip(read(summary, ids), read(fresh, ids), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=4e-3, rtol=2e-3)
    for path in summary.stores.values():
        found = verify(path, deep=True)
        assert (found.sound, found.clips["ok"], found.notes) == (True, 6, [])
        store, features = FeatureStore.open(path), zarr.open_array(path / "features", mode="r")
        for clip in ids:
            slot = store.slot(clip)
            plain = features[slot.row : slot.row + slot.rows]
            np.testing.assert_array_equal(plain, store.read([clip])[0])


# --- clips that are counted otherwise -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("streams", [["spatial"], None], ids=["a stream after", "both"])
def test_a_video_that_could_not_be_read_is_had_by_trying_again(
    go: Go, show: Show, *, clips: Any, tmp_path: Path, streams: list[str] | None
) -> None:
    show(0)
    first = go(streams=streams)
    assert [clip for clip, _ in first.failed] == ["clip-e"]
    show(40)
    kept = receipts(first)
    idle = go(streams=streams)
    assert (idle.failed, idle.computed_frames) == (first.failed, 0), "not asked to try again"
    planned = go(streams=streams, retry_failed=True, dry_run=True)
    assert (planned.done, planned.copied) == (1, 0)
    assert receipts(first) == kept
    mended = go(streams=streams, retry_failed=True)
    assert (mended.done, mended.failed, mended.computed_frames) == (1, [], 40)
    assert kept.items() <= receipts(mended).items(), "a finished partition was touched"
    assert_whole(go, clips, go(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0, 40), (9, 40), (40, 9), (40, 0)])
def test_a_video_may_change_before_it_is_its_turn(
    go: Go, show: Show, *, clips: Any, tmp_path: Path, before: int, after: int
) -> None:
    show(before)
    kept = receipts(go(splits=["dev"]))
    show(after)
    told = go()
    assert kept.items() <= receipts(told).items()
    assert [clip for clip, _ in told.failed] == ([] if after else ["clip-e"])
    assert told.done == (5 if after else 4)
    show(after or 16)
    again = go(retry_failed=True)
    assert (again.failed, again.done) == ([], 0 if after else 1)
    assert_whole(go, clips, again, tmp_path)


@pytest.mark.slow
def test_what_is_finished_stays_whatever_the_disk_says(go: Go, show: Show) -> None:
    show(16)
    first = go(splits=["train"])
    kept = receipts(first)
    show(0)
    rest = go()
    assert (rest.reused, rest.done, rest.failed) == (4, 2, [])
    assert kept.items() <= receipts(rest).items()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "alone"])
def test_features_of_other_frames_than_a_clip_has_are_computed_anew(
    go: Go, show: Show, *, clips: Any, tmp_path: Path, split: str
) -> None:
    """Whether its former partition has other clips or not."""
    clips = resplit(clips, e=split)
    show(9)
    kept = receipts(go(manifest=clips))
    show(40)
    told = go(manifest=clips)
    assert (told.reused, told.done, told.computed_frames, told.failed) == (5, 1, 40, [])
    assert kept.items() <= receipts(told).items(), "a finished partition was touched"
    assert_whole(go, clips, told, tmp_path)
    show(0)
    assert go(manifest=clips).reused == 6, "what cannot be counted now takes nothing back"


@pytest.mark.slow
def test_a_run_that_began_before_another_gave_a_clip_its_place_goes_on(
    go: Go, show: Show, *, clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one is through before the first has opened its first partition."""
    show(0)
    go(splits=["dev"])
    run, outcomes = worker.run_task, []

    def late(*args: Any) -> Any:
        monkeypatch.setattr(worker, "run_task", run)
        show(40)
        outcomes.append(go())
        return run(*args)

    monkeypatch.setattr(worker, "run_task", late)
    monkeypatch.setattr(executors, "AT_ONCE", 1)
    assert go(splits=["train"]).failed == []
    assert outcomes[0].failed == []
    assert_whole(go, clips, go(), tmp_path)


@pytest.mark.slow
def test_a_copy_has_the_later_partitions_too(go: Go, show: Show, tmp_path: Path) -> None:
    show(0)
    go()
    show(40)
    for store in go(retry_failed=True).stores.values():
        made = copy(store, tmp_path / "copy").path
        assert verify(Path(str(made)), deep=True).sound
        assert FeatureStore.open(made).counts()["ok"] == 6


# --- other splits ---------------------------------------------------------------------------------


def resplit(manifest: Any, **splits: str) -> Any:
    """The manifest with other splits for some clips, by the last letters of their ids."""
    rows = [replace(clip, split=splits.get(clip.id[-1], clip.split)) for clip in manifest.clips()]
    return Manifest.from_clips(manifest.corpus, rows)


OTHER_SPLITS = {
    "renamed": {"c": "valid"},
    "moved": {"a": "test", "f": "train", "b": "dev"},
    "new": {"d": "heldout", "f": "heldout"},
    "all in one": dict.fromkeys("abcdef", "train"),
}


@pytest.mark.slow
@pytest.mark.parametrize("splits", OTHER_SPLITS.values(), ids=OTHER_SPLITS.keys())
def test_clips_in_other_splits_are_not_computed_again(
    go: Go, show: Show, *, clips: Any, splits: dict[str, str], digest: Callable[[Path], str]
) -> None:
    show(16)
    first = go()
    before = {name: digest(path) for name, path in first.stores.items()}
    other = resplit(clips, **splits)
    for names in (None, ["train"], sorted(splits.values())[:1]):
        told = go(manifest=other, splits=names)
        assert (told.computed_frames, told.copied, told.done, told.failed) == (0, 0, 0, [])
        asked = [clip for clip in other.clips() if names is None or clip.split in names]
        assert told.clips == told.reused == len(asked)
        assert told.stores == first.stores
    assert {name: digest(path) for name, path in first.stores.items()} == before


@pytest.mark.slow
def test_a_store_half_filled_goes_on_under_other_splits(
    go: Go, show: Show, clips: Any, tmp_path: Path
) -> None:
    show(16)
    first = go(splits=["train"])
    other = resplit(clips, a="dev", c="valid")
    # What was `dev` is in no partition of its own any more; a clip of `train` is.
    told = go(manifest=other, splits=["dev"])
    assert (told.clips, told.reused, told.computed_frames) == (1, 1, 0)
    valid = go(manifest=other, splits=["valid"])
    assert (valid.clips, valid.done, valid.computed_frames) == (1, 1, 16)
    kept = receipts(first)
    assert_whole(go, clips, go(manifest=other), tmp_path)
    assert kept.items() <= receipts(first).items()


@pytest.mark.slow
def test_a_partition_with_clips_of_several_splits_by_now_is_computed_whole(
    go: Go, show: Show, clips: Any, tmp_path: Path
) -> None:
    show(0)
    go(splits=["dev"])
    show(40)
    other = resplit(clips, d="heldout")  # which shares its partition with the video
    told = go(manifest=other, splits=["heldout"])
    assert (told.clips, told.done, told.failed) == (1, 1, [])
    whole = go(manifest=other)
    assert whole.failed == []
    assert_whole(go, clips, whole, tmp_path)


@pytest.mark.slow
def test_a_store_of_another_root_serves_other_splits(
    go: Go, show: Show, *, clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(16)
    first = go()
    monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "features"))
    told = go(manifest=resplit(clips, c="valid", a="heldout"), store_root=tmp_path / "mine")
    assert (told.reused, told.computed_frames, told.stores) == (6, 0, first.stores)
    assert not (tmp_path / "mine").exists()


# --- stores that may only be read -----------------------------------------------------------------


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


@contextmanager
def only_to_be_read(folder: Path) -> Iterator[None]:
    """Nobody may write below a folder, not even root: this thread gives up its right to."""
    libc, header = ctypes.CDLL(None, use_errno=True), _Header(0x20080522, 0)
    before, now = (_Capabilities * 2)(), (_Capabilities * 2)()
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    for found in (before, now):
        assert libc.capget(ctypes.byref(header), found) == 0
    now[0].effective &= ~0b1110  # to write, read, and own whatever it likes
    assert libc.capset(ctypes.byref(header), now) == 0
    try:
        with pytest.raises(PermissionError):
            (folder / "probe").touch()
        yield
    finally:
        assert libc.capset(ctypes.byref(header), before) == 0
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.slow
def test_a_complete_store_that_may_only_be_read_is_there_already(
    go: Go, show: Show, *, clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(16)
    first = go()
    monkeypatch.setattr(worker, "run_task", None)
    with only_to_be_read(tmp_path / "features"):
        for options in ({}, {"retry_failed": True}, {"manifest": resplit(clips, c="valid")}):
            told = go(**options)
            assert (told.reused, told.stores) == (6, first.stores)


@pytest.mark.slow
def test_an_incomplete_store_that_may_only_be_read_is_an_error_before_any_work(
    go: Go, show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(16)
    go(splits=["train"])
    with only_to_be_read(tmp_path / "features"):
        with monkeypatch.context() as patch:
            patch.setattr(worker, "run_task", None)
            assert go(splits=["train"]).reused == 4
            with pytest.raises(StoreError, match="cannot write: Permission denied") as refused:
                go()
        assert "SPAMO_CACHE" in str(refused.value.remedy)
        # With a root of one's own before it, what it holds is copied there.
        monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "features"))
        mine = go(store_root=tmp_path / "mine")
        assert (mine.copied, mine.done, mine.failed) == (4, 2, [])
