"""What some store holds already is copied, byte for byte, and never computed again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache.config import CacheSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import UsageError
from spamo_cache.extract import decoding, estimate, worker
from spamo_cache.extract.extraction import extract
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import shard_path
from spamo_cache.store.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"

Go = Callable[..., Any]


@pytest.fixture
def root(corpus: Path, tmp_path: Path) -> Path:
    """A corpus to change."""
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def go(root: Path, manifest: Any, spec: CacheSpec, tmp_path: Path) -> Go:
    def run(**changes: Any) -> Any:
        given = {"manifest": manifest, "root": root, "spec": spec, "spec_base": GOLDEN}
        options = {"store_root": tmp_path / "features", "executor": "serial", "device": "cpu"}
        return extract(**{**given, **options, **changes})

    return run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips that are decoded, as it happens."""
    seen: list[str] = []
    decode = decoding.decode

    def noting(root: Path, clip: Any, *args: Any, **options: Any) -> str:
        seen.append(clip.id)
        return decode(root, clip, *args, **options)

    monkeypatch.setattr(decoding, "decode", noting)
    return seen


def without(manifest: Any, *names: str) -> Any:
    return Manifest.from_clips(manifest.corpus, (c for c in manifest.clips() if c.id not in names))


def features(summary: Any, clip: str) -> list[bytes]:
    stores = [FeatureStore.open(path) for path in summary.stores.values()]
    return [store.read([clip])[0].tobytes() for store in stores]


@pytest.mark.slow
def test_a_corpus_that_grew_copies_what_it_had(
    go: Go, manifest: Any, read: list[str], tmp_path: Path
) -> None:
    before = go(manifest=without(manifest, "clip-d", "clip-f"))
    read.clear()
    told = go(dry_run=True)
    assert (told.done, told.copied, told.reused) == (2, 4, 0)
    assert not read
    after = go()
    assert sorted(read) == ["clip-d", "clip-f"]
    assert (after.done, after.copied, after.reused, after.failed) == (2, 4, 0, [])
    assert after.computed_frames == 24 + 30
    for clip in ("clip-a", "clip-b", "clip-c", "clip-e"):
        assert features(after, clip) == features(before, clip)
    for name, path in after.stores.items():
        assert [(d.store, d.clips) for d in after.streams[name].copied_from] == [
            (before.stores[name], 4)
        ]
        old, new = FeatureStore.open(before.stores[name]), FeatureStore.open(path)
        copied = [new.receipt(p).provenance["copied"] for p in range(len(manifest) // 2 + 1)]
        assert sum(count for taken in copied for count in taken.values()) == 4
        assert {origin for taken in copied for origin in taken} == {old.fingerprint}
        sources = {k: v for p in range(4) for k, v in new.receipt(p).sources.items()}
        assert set(sources) == {clip.id for clip in manifest.clips()}
        assert verify(path, deep=True).sound


@pytest.mark.slow
def test_features_copied_or_computed_are_the_same(go: Go, manifest: Any, tmp_path: Path) -> None:
    go(manifest=without(manifest, "clip-d"))
    mixed, fresh = go(), go(store_root=tmp_path / "fresh")
    for name, path in mixed.stores.items():
        stores = FeatureStore.open(path), FeatureStore.open(fresh.stores[name])
        assert stores[0].fingerprint == stores[1].fingerprint
        for ours, theirs in zip(*(store.read(list(store.ids)) for store in stores), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=4e-3, rtol=2e-3)


@pytest.mark.slow
def test_a_changed_source_is_computed_again(go: Go, root: Path, read: list[str]) -> None:
    go()
    read.clear()
    image = root / "c" / "3.png"
    image.write_bytes(image.read_bytes() + b"\0")  # another size: another clip
    assert (go().done, read) == (1, ["clip-c"])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"crop": (0.0, 0.0, 0.5, 1.0)}, {"source": "d"}], ids=str)
def test_another_crop_or_source_is_another_clip(
    go: Go, manifest: Any, read: list[str], change: dict[str, Any]
) -> None:
    go()
    read.clear()
    first, *others = manifest.clips()
    changed = Manifest.from_clips(manifest.corpus, [replace(first, **change), *others])
    assert (go(manifest=changed).copied, read) == (5, ["clip-a"])


@pytest.mark.slow
def test_a_part_in_another_root_is_copied(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Callable[[Path], str]
) -> None:
    theirs = go(store_root=tmp_path / "theirs", splits=["train"])
    monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "theirs"))
    ours = go()
    assert (ours.copied, ours.done) == (3, 3)
    assert all(path.parents[1] == tmp_path / "features" for path in ours.stores.values())
    # The very partitions that were there: the same bytes as computed in one go.
    monkeypatch.delenv("SPAMO_CACHE")
    shutil.rmtree(tmp_path / "theirs")
    whole = go(store_root=tmp_path / "whole")
    assert len(theirs.stores) == 2
    for name, path in ours.stores.items():
        shards = [shard_path(store, 0).read_bytes() for store in (path, whole.stores[name])]
        assert shards[0] == shards[1]


@pytest.mark.slow
def test_one_stream_may_be_copied_and_the_other_computed(
    go: Go, manifest: Any, read: list[str]
) -> None:
    go(manifest=without(manifest, "clip-f"), streams=["spatial"])
    read.clear()
    after = go()
    assert (after.done, after.copied, len(read)) == (6, 0, 6)
    assert sum(donor.clips for donor in after.streams["spatial"].copied_from) == 5
    assert not after.streams["motion"].copied_from


@pytest.mark.slow
def test_a_damaged_copy_is_computed_instead(go: Go, manifest: Any, read: list[str]) -> None:
    before = go(manifest=without(manifest, "clip-f"))
    shard = shard_path(before.stores["spatial"], 0)
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    read.clear()
    after = go()
    assert len(read) == 2
    assert "clip-f" in read
    assert (after.done, after.copied, after.failed) == (2, 4, [])
    assert verify(after.stores["spatial"], deep=True).sound


@pytest.mark.slow
def test_other_weights_give_nothing(
    go: Go, manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(manifest=without(manifest, "clip-f"))
    build = worker.registry.build

    def other(*args: Any) -> Any:
        encoder = build(*args)
        encoder.weights_sha256 = "0" * 64
        return encoder

    monkeypatch.setattr(worker.registry, "build", other)
    assert go(dry_run=True).copied == 0


# --- failed clips ---------------------------------------------------------------------------------


@pytest.fixture
def damaged(root: Path) -> bytes:
    """The content of a picture that is broken now, without a change of its size."""
    path = root / "d" / "7.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] + bytes(30))
    return whole


@pytest.mark.slow
def test_only_failed_clips_are_tried_again(
    go: Go, root: Path, damaged: bytes, read: list[str]
) -> None:
    first = go()
    assert [clip for clip, _ in first.failed] == ["clip-d"]
    untouched = FeatureStore.open(first.stores["spatial"]).receipt(0).provenance
    read.clear()
    assert (go().failed, read) == (first.failed, [])
    again = go(retry_failed=True)
    assert (again.failed, again.done, again.copied, again.reused) == (first.failed, 0, 0, 5)
    assert read == ["clip-d"]
    (root / "d" / "7.png").write_bytes(damaged)
    read.clear()
    told = go(retry_failed=True, dry_run=True)
    assert (told.done, told.copied) == (1, 0)
    kept = {clip: features(first, clip) for clip in ("clip-a", "clip-b", "clip-c")}
    mended = go(retry_failed=True)
    assert read == ["clip-d"]
    assert (mended.failed, mended.done, mended.copied, mended.reused) == ([], 1, 0, 5)
    assert {clip: features(mended, clip) for clip in kept} == kept
    store = FeatureStore.open(mended.stores["spatial"])
    assert store.receipt(0).provenance == untouched, "a partition without failures was touched"
    assert all(verify(path, deep=True).sound for path in mended.stores.values())


@pytest.mark.slow
def test_what_failed_for_somebody_else_is_tried_in_a_store_of_ones_own(
    go: Go, root: Path, damaged: bytes, tmp_path: Path, *, read: list[str]
) -> None:
    theirs = go(store_root=tmp_path / "theirs")
    (root / "d" / "7.png").write_bytes(damaged)
    read.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAMO_CACHE", str(tmp_path / "theirs"))
        assert go().stores == theirs.stores
        ours = go(retry_failed=True)
    assert read == ["clip-d"]
    assert (ours.failed, ours.done, ours.copied) == ([], 1, 5)
    assert not set(ours.stores.values()) & set(theirs.stores.values())


@pytest.mark.slow
def test_a_failure_in_one_stream_leaves_the_other_alone(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = worker.registry.build

    def building(stream: Any, *args: Any) -> Any:
        encoder = build(stream, *args)
        if stream.encoder == "videomae":
            encode = encoder.encode
            encoder.encode = lambda pixels: encode(pixels) * np.inf
        return encoder

    with monkeypatch.context() as patch:
        patch.setattr(worker.registry, "build", building)
        first = go(splits=["dev"])
    assert first.failed == [("clip-c", "motion: 1 of 1 rows are not finite as computed in float32")]
    (receipt,) = (first.stores["spatial"] / "receipts").glob("[0-9]*.json")
    before = receipt.read_bytes(), receipt.stat().st_mtime_ns
    again = go(splits=["dev"], retry_failed=True)
    assert (again.failed, again.done) == ([], 1)
    assert (receipt.read_bytes(), receipt.stat().st_mtime_ns) == before


@pytest.mark.slow
def test_a_half_precision_overflow_names_its_remedy(
    go: Go, spec: CacheSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.registry, "resolve_compute", lambda *_: "float16")
    build = worker.registry.build

    def building(*args: Any) -> Any:
        encoder = build(*args)
        encode = encoder.encode
        encoder.encode = lambda pixels: encode(pixels) * np.nan
        return encoder

    monkeypatch.setattr(worker.registry, "build", building)
    ((_, reason),) = go(splits=["dev"], streams=["motion"]).failed
    assert "not finite as computed in float16: set compute: bfloat16 or float32" in reason


# --- calibration ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_calibration_measures_what_is_left_and_writes_nothing(
    go: Go, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="dry run"):
        go(calibrate=True)
    told = go(dry_run=True, calibrate=True)
    assert not (tmp_path / "features").exists()
    assert set(read) == {f"clip-{name}" for name in "abcdef"}
    assert told.calibrated is not None
    # All of the corpus was decoded and encoded, so the estimate is what that took.
    expected = 101 / told.calibrated / 3600
    assert told.device_hours == pytest.approx(expected)
    read.clear()
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    go(dry_run=True, calibrate=True)
    assert len(read) <= 3, "goes on after its time"
    go()
    finished = go(dry_run=True, calibrate=True)
    assert (finished.device_hours, finished.calibrated) == (0, None)
