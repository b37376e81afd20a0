"""Frames of the raw corpus: for pipelines that tune their encoders, and for pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache import devices, extras
from spamo_cache.config import Pipeline
from spamo_cache.errors import (
    ConfigError,
    PoseError,
    SpamoError,
    StoreError,
    UsageError,
    VideoError,
)
from spamo_cache.workflow import DRAWN, resolve
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    import numpy as np

    from spamo_cache.datasets.manifest import Clip
    from spamo_cache.store.inspect import Trace
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.train import Features


def input_streams(
    pipeline: Pipeline,
    stores: Mapping[str, FeatureStore],
    base: Path,
    root: Path | str | None,
    watcher: Watcher = QUIET,
) -> Mapping[str, Features]:
    """``stores``, or their clips as frames with the encoders that are to be tuned.

    Args:
        base: folder of the pipeline's file.
        root: of the raw corpus; needed for frames only.

    Raises:
        UsageError: frames are needed, and ``root`` is not given.
        ConfigError: the encoders cannot be tuned as the pipeline says.
        WeightsError: the spec's weights are not those of the stores.
    """
    if pipeline.encoders is None:
        return stores
    extras.need(*extras.EXTRAS["extract"], use="tuning encoders from frames")
    from spamo_cache.encoders.registry import build
    from spamo_cache.encoders.tunable import TunableEncoder
    from spamo_cache.extract.frames import frame_streams

    folder = _root(pipeline.corpus, root, watcher)
    spec, path = resolve.spec_used(pipeline, base)
    for name in stores:
        if spec.streams[name].uses_poses:
            raise ConfigError(
                f"stream {name!r} is computed by poses: only encoders of whole frames are tuned",
                where=pipeline.name,
                remedy="leave it out of `streams`, or `encoders` out of the pipeline",
            )
    plain = {name: build(spec.streams[name], path.parent, "float32") for name in stores}
    encoders = {
        name: TunableEncoder(encoder, pipeline.encoders, pipeline.seed)
        for name, encoder in plain.items()
    }
    threads = pipeline.threads or devices.cpu_cores()
    return frame_streams(stores, encoders, folder, resize=spec.frames.resize, threads=threads)


def _root(corpus: str, root: Path | str | None, watcher: Watcher) -> Path:
    if root is not None:
        return resolve.folder(root)
    if corpus in DRAWN:
        return resolve.corpus_root(corpus, None, watcher=watcher)
    raise UsageError(
        "its encoders are tuned, which takes the frames",
        where=f"corpus {corpus}",
        remedy="name the folder of the raw corpus by --root DIR",
    )


HEIGHT = 96
_QUALITY = 80


def stills(root: Path, clips: Iterable[Clip], count: int) -> dict[str, list[tuple[int, bytes]]]:
    """Clip id -> (frame number, JPEG) at even distances; clips that cannot be read are left out.

    Needs the libraries of the extra ``extract``; without them there are no frames.
    """
    if not extras.is_there("av"):
        return {}
    from spamo_cache.video import each_frame, probe

    found = {}
    for clip in clips:
        probed = probe(root, clip)
        places = sorted({(2 * i + 1) * probed.frames // (2 * count) for i in range(count)})
        try:
            with closing(each_frame(root, clip, probed)) as shown:
                whole = enumerate(islice(shown, places[-1] + 1))
                shots = [(n, _jpeg(frame)) for n, frame in whole if n in places]
        except (SpamoError, OSError):
            continue
        found[clip.id] = shots
    return found


def _jpeg(frame: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(frame)
    width = max(1, round(image.width * HEIGHT / image.height))
    kept = BytesIO()
    image.resize((width, HEIGHT)).save(kept, "JPEG", quality=_QUALITY)
    return kept.getvalue()


def frames_of_row(row: Trace, root: Path | str) -> dict[str, list[Any]]:
    """Where in the raw corpus the frames of a row of features are.

    Returns:
        ``files`` of an image folder; of a video, the ``seconds`` at which the first and the last
        frame are shown; nothing where the store does not know the frames.

    Raises:
        UsageError: no such folder.
        VideoError: the source cannot be read.
        StoreError: it is not what was extracted.
    """
    extras.need("av", use="finding the frames of a row")
    from spamo_cache.datasets.source_files import locate
    from spamo_cache.store.layout import ClipKey
    from spamo_cache.video import images, probe, timeline_cache

    root = resolve.folder(root)
    if row.first is None or row.last is None:
        return {}
    key = ClipKey(row.clip, row.source, row.size, row.start, row.end)
    probed, path = probe(root, key), locate(root, row.source)
    if probed.reason is not None:
        raise VideoError(probed.reason, where=path, remedy="check --root")
    if (probed.size, probed.frames) != (row.size, row.frames):
        raise StoreError("is not the source that was extracted", where=path, remedy="check --root")
    if probed.span is None:
        files = images.listing(path)[row.first : row.last + 1]
        return {"files": [file.relative_to(root).as_posix() for file in files]}
    times = timeline_cache.timeline(path, path.stat())
    return {"seconds": times.seconds[[row.first, row.last]].tolist()}


def box_of_row(
    store: FeatureStore, row: Trace, root: Path | str, poses: Path | str | None = None
) -> dict[str, int] | None:
    """The square that a row of a region was cut to; None where whole frames or points were taken.

    Args:
        store: that of the row.
        root: of the raw corpus.
        poses: folder of the clips' poses; None is that of the store's spec.

    Returns:
        ``left``, ``top`` and ``side`` in pixels of a frame of ``width`` and ``height``, the clip's
        own crop applied. A side of 0: the region is never seen.

    Raises:
        UsageError: no such folder.
        PoseError: the pose is missing, or cannot be read.
        StoreError: it is not the one that was used.
    """
    from spamo_cache.config import BoxSpec

    spec = store.attributes["spec"]
    if spec.get("region") is None or row.first is None:
        return None
    extras.need("av", use="finding the box of a row")
    from spamo_cache.extract import clip_poses, regions
    from spamo_cache.video import each_frame, probe

    root = resolve.folder(root)
    clip, key = _clip_of(store, row.clip), store.clip_key(row.clip)
    file = clip_poses.find(root, root / (poses or store.about.poses), clip)
    remedy = "check --root and --poses"
    if file.path is None:
        raise PoseError(file.reason or "has no pose", where=row.clip, remedy=remedy)
    if file.identity != key.pose:
        raise StoreError("is not the pose that was used", where=file.path, remedy=remedy)
    probed = probe(root, key)
    pose = clip_poses.read(root, clip, probed, file)
    with closing(each_frame(root, key, probed)) as frames:
        height, width, _ = next(frames).shape
    found = regions.boxes(
        pose.scaled(width, height), spec["region"], BoxSpec.model_validate(spec["box"])
    )
    left, top, side, _ = found[row.first - store.slot(row.clip).first]
    return {"left": left, "top": top, "side": side, "width": width, "height": height}


def _clip_of(store: FeatureStore, clip: str) -> Clip:
    """A clip as it was when the store was made, with the pose that its manifest named."""
    from spamo_cache.datasets.manifest import Clip, Manifest

    if isinstance(store.path, Path) and (store.path / "manifest.parquet").is_file():
        table = Manifest.read(store.path / "manifest.parquet").clips()
        found = next((one for one in table if one.id == clip), None)
        if found is not None:
            return found
    key = store.clip_key(clip)
    return Clip(
        id=clip,
        split="",
        source=key.source,
        start=key.start,
        end=key.end,
        crop=key.crop,
        text="",
        language="",
    )
