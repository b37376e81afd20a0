"""Stage 1 as a whole, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache import checkpoints
from spamo_cache.config import CacheSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.errors import ConfigError, SpamoError, UsageError
from spamo_cache.extract import planning, worker
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.progress import Progress
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter
from spamo_cache.video import decord_backend, read_clip
from spamo_cache.video.timeline import Span
from tests.support import networks

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


@pytest.fixture
def go(corpus: Path, manifest: Any, spec: CacheSpec, tmp_path: Path) -> Callable[..., Any]:
    def run(**changes: Any) -> Any:
        given = {"manifest": manifest, "root": corpus, "spec": spec, "spec_base": GOLDEN}
        options = {"store_root": tmp_path / "features", "executor": "serial", "device": "cpu"}
        return extract(**{**given, **options, **changes})

    return run


@pytest.mark.slow
def test_features_are_those_of_each_clip_alone(
    go: Callable[..., Any], corpus: Path, manifest: Any, spec: CacheSpec
) -> None:
    """Batches cross clips; that must not show beyond rounding."""
    summary = go()
    assert (summary.clips, summary.done, summary.reused, list(summary.failed)) == (6, 6, 0, [])
    assert summary.frames == summary.computed_frames == 101
    for name, path in summary.stores.items():
        store = FeatureStore.open(path)
        encoder = registry.build(spec.streams[name], GOLDEN)
        for clip in manifest.clips():
            wanted = encode_clip(encoder, read_clip(corpus, clip), resize=spec.frames.resize)
            (found,) = store.read([clip.id])
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, wanted, atol=4e-3, rtol=2e-3)


@pytest.mark.slow
def test_encoders_are_loaded_once_in_one_process(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, read, loaded = networks.plain, checkpoints.tensors, []

    def building(stream: Any, *options: Any) -> Any:
        loaded.append(stream.encoder)
        return build(stream, *options)

    def reading(path: Path) -> Any:
        loaded.append(path.name)
        return read(path)

    monkeypatch.setattr(registry, "build", building)
    monkeypatch.setattr(checkpoints, "tensors", reading)
    once = ["open_clip", "clip-vision", "videomae", "videomae"]
    go()
    assert loaded == once
    go()  # what lies on the disk may be another network by now
    assert loaded == once * 2


def test_what_an_extraction_is_planned_by_holds_no_weights(spec: CacheSpec) -> None:
    for stream in spec.streams.values():
        encoder = registry.build(stream, GOLDEN)
        outline = encoder.outline()
        assert not list(outline.parameters())
        assert (outline.width, outline.weights_sha256) == (encoder.width, encoder.weights_sha256)
        assert list(outline.starts(40)) == list(encoder.starts(40))


@pytest.mark.slow
def test_whoever_finds_one_stream_taken_leaves_the_others_to_its_owner(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two commands that take one stream each, both would decode every clip."""
    lease, compute = StoreWriter.lease, worker.compute
    refused: list[str] = []
    computed: list[list[str]] = []

    @contextmanager
    def taken_at_first(self: StoreWriter, partition: int) -> Iterator[bool]:
        if not refused:
            refused.append(self.path.name)
            yield False
        else:
            with lease(self, partition) as held:
                yield held

    def noted(config: Any, clips: Any, results: Any, *rest: Any) -> Any:
        computed.append(sorted(results))
        return compute(config, clips, results, *rest)

    monkeypatch.setattr(StoreWriter, "lease", taken_at_first)
    monkeypatch.setattr(worker, "compute", noted)
    summary = go()
    assert (summary.done, summary.computed_frames) == (6, 101)
    assert refused
    assert {tuple(streams) for streams in computed} == {("motion", "spatial")}


@pytest.mark.slow
def test_a_second_run_computes_nothing(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = go()
    monkeypatch.setattr(worker, "run_task", None)
    second = go()
    assert (second.done, second.reused, second.computed_frames) == (0, 6, 0)
    assert second.stores == first.stores


@pytest.mark.slow
def test_splits_and_streams_fill_parts_of_the_same_stores(
    go: Callable[..., Any], digest: Callable[[Path], str], tmp_path: Path
) -> None:
    part = go(splits=["test"], streams=["motion"])
    assert (part.clips, part.done) == (2, 2)
    store = FeatureStore.open(part.stores["motion"])
    assert [store.state(clip) for clip in ("clip-a", "clip-f")] == ["absent", "ok"]
    rest = go(streams=["spatial"])
    assert rest.done == 6
    whole = go()
    assert (whole.done, whole.reused) == (4, 2)
    at_once = go(store_root=tmp_path / "other")
    for name, path in at_once.stores.items():
        assert path.name == whole.stores[name].name
        assert digest(path) == digest(whole.stores[name])


@pytest.mark.slow
def test_a_changed_stride_makes_a_new_motion_store_only(
    go: Callable[..., Any], spec: CacheSpec
) -> None:
    first = go()
    motion = spec.streams["motion"].model_copy(update={"stride": 1})
    changed = spec.model_copy(update={"streams": {**spec.streams, "motion": motion}})
    shards = spec.store.shard_rows.model_copy(update={"window": 18})
    with pytest.raises(ConfigError, match=r"raise store.shard_rows.window"):
        go(spec=changed)
    changed = changed.model_copy(
        update={"store": spec.store.model_copy(update={"shard_rows": shards})}
    )
    second = go(spec=changed)
    assert second.stores["spatial"] == first.stores["spatial"]
    assert second.stores["motion"] != first.stores["motion"]
    assert second.streams["spatial"].held == 6
    assert FeatureStore.open(second.stores["motion"]).rows("clip-f") == 15


@pytest.mark.slow
def test_bad_clips_fail_alone_and_can_be_tried_again(
    go: Callable[..., Any],
    corpus: Path,
    manifest: Any,
    tmp_path: Path,
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(corpus, root)
    whole = (root / "d" / "7.png").read_bytes()
    (root / "d" / "7.png").write_bytes(whole[:-30] + bytes(30))
    clip = manifest.clips()[0]
    gone = replace(clip, id="gone", source="gone")
    range_ = replace(clip, id="range", start=0.5)
    given = Manifest.from_clips(manifest.corpus, [*manifest.clips(), gone, range_])
    summary = go(root=root, manifest=given)
    assert (summary.clips, summary.done) == (8, 5)
    reasons = dict(summary.failed)
    assert set(reasons) == {"clip-d", "gone", "range"}
    assert reasons["gone"] == "source is missing"
    assert "cut off" in reasons["clip-d"]
    assert go(root=root, manifest=given).failed == summary.failed
    (root / "d" / "7.png").write_bytes(whole)
    again = go(root=root, manifest=given, retry_failed=True)
    assert (again.done, again.reused, len(again.failed)) == (1, 5, 2)


@pytest.mark.slow
def test_values_that_are_not_finite_fail_their_clip_in_their_stream(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = worker.registry.build

    def building(stream: Any, base: Path, compute: Any, device: str = "cpu") -> Any:
        encoder = build(stream, base, compute, device)
        if stream.encoder == "videomae":
            encode = encoder.encode
            encoder.encode = lambda pixels: encode(pixels) * 1e9  # overflows the store's float16
        return encoder

    monkeypatch.setattr(worker.registry, "build", building)
    summary = go(splits=["dev"])
    assert summary.failed == [
        (
            "clip-c",
            "motion: 1 of 1 rows are too large for the store's float16: set store.dtype: float32",
        )
    ]
    assert FeatureStore.open(summary.stores["spatial"]).state("clip-c") == "ok"


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_tells_the_plan(
    go: Callable[..., Any], tmp_path: Path
) -> None:
    told = go(dry_run=True)
    assert not (tmp_path / "features").exists()
    assert (told.clips, told.frames, told.done, told.reused) == (6, 101, 6, 0)
    assert told.streams["spatial"].rows == 101
    assert told.streams["motion"].rows == 1 + 1 + 1 + 2 + 1 + 2
    assert told.streams["spatial"].bytes == (32 + 16 + 16 + 32 + 16 + 32) * 48 * 2
    assert told.device_hours > 0
    go()
    assert go(dry_run=True).reused == 6
    assert go(dry_run=True).device_hours == 0


@pytest.mark.slow
def test_what_another_root_holds_is_not_computed(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = go()
    monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "features"))
    second = go(store_root=tmp_path / "mine")
    assert (second.done, second.reused) == (0, 6)
    assert second.stores == first.stores
    assert all(stream.elsewhere for stream in second.streams.values())
    assert not (tmp_path / "mine").exists()


@pytest.mark.slow
def test_features_of_other_frames_are_not_taken_for_those_of_a_clip(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go()
    monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "features"))
    probe_all = planning.probe_all

    def later(*args: Any, **options: Any) -> list[Any]:
        first, *others = probe_all(*args, **options)
        other = Span(3, first.frames, 0, 0, seekable=False, plain=False)
        return [replace(first, span=other), *others]

    assert go(dry_run=True, store_root=tmp_path / "mine").reused == 6
    monkeypatch.setattr(planning, "probe_all", later)
    told = go(dry_run=True, store_root=tmp_path / "mine")
    assert (told.reused, told.copied, told.done) == (0, 5, 1)
    told = go(dry_run=True)
    assert (told.reused, told.copied, told.done) == (5, 0, 1)


@pytest.mark.slow
def test_the_reader_is_named_in_receipts_and_no_part_of_a_fingerprint(
    go: Callable[..., Any], spec: CacheSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    frames = spec.frames.model_copy(update={"reader": "decord"})
    chosen = spec.model_copy(update={"frames": frames})
    monkeypatch.setattr(decord_backend, "is_installed", lambda: False)
    with pytest.raises(UsageError, match="decord is not installed"):
        go(spec=chosen)
    monkeypatch.setattr(decord_backend, "is_installed", lambda: True)
    stores = [go(streams=["spatial"]).stores["spatial"]]
    stores.append(go(streams=["spatial"], spec=chosen, store_root=tmp_path / "b").stores["spatial"])
    opened = [FeatureStore.open(path) for path in stores]
    assert opened[0].fingerprint == opened[1].fingerprint
    readers = [store.receipt(0).provenance["reader"] for store in opened]
    assert readers == ["pyav", "decord"]


@pytest.mark.slow
def test_progress_reaches_the_end(go: Callable[..., Any]) -> None:
    seen: list[Progress] = []
    go(progress=seen.append)
    probes = [step for step in seen if step.stage == "probe"]
    steps = [step for step in seen if step.stage == "extract"]
    assert probes[-1].clips == probes[-1].clips_total == 6
    assert [step.clips for step in steps] == list(range(7))
    assert steps[-1].frames == steps[-1].frames_total == 101


@pytest.mark.slow
def test_weights_that_changed_under_the_run_stop_it(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = worker.load_encoders

    def other(config: Any, names: Any) -> Any:
        streams = {k: replace(v, weights_sha256="0" * 64) for k, v in config.streams.items()}
        return whole(replace(config, streams=streams), names)

    monkeypatch.setattr(worker, "load_encoders", other)
    with pytest.raises(SpamoError, match="other weights"):
        go()


@pytest.mark.slow
def test_an_interrupt_seals_what_is_finished(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compute, calls = worker.compute, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(worker, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go()
    (path,) = (tmp_path / "features" / "toy").glob("spatial-*.zarr")
    done = FeatureStore.open(path).counts()["ok"]
    assert 0 < done < 6
    monkeypatch.setattr(worker, "compute", compute)
    assert go().done == 6 - done


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streams": ["sound"]}, "no stream 'sound'"),
        ({"splits": ["tset"]}, "no split 'tset'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"workers": 0}, "workers: 0 is not a positive number"),
        ({"root": Path("/nowhere/at/all")}, "no such corpus folder"),
    ],
    ids=str,
)
def test_bad_usage(go: Callable[..., Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        go(**changes)
