"""New videos -> text, by the decoder, the encoders and the translator that a run was made with."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import extras
from spamo_cache.errors import UsageError, VideoError, WeightsError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.resolve import RunLike
from spamo_cache.workflow.stores import missing_explained

if TYPE_CHECKING:
    from spamo_cache.config import Pipeline
    from spamo_cache.extract.summary import Summary
    from spamo_cache.runs.folder import RunSummary
    from spamo_cache.runs.load import Run
    from spamo_cache.runs.records import Evaluation
    from spamo_cache.store.reader import FeatureStore

Videos = str | Path | Sequence[str | Path]
"""Video files or folders of frames."""


@dataclass(frozen=True, slots=True)
class Translation:
    """A video, or a range of it, in words.

    Attributes:
        video: the file, or the folder of frames.
        start: of the range, in seconds; None is the beginning.
        end: of the range, in seconds; None is the end.
        text: the sentence; None where the video cannot be read.
        reason: why it cannot be read; empty where it can.
    """

    video: Path
    start: float | None = None
    end: float | None = None
    text: str | None = None
    reason: str = ""

    @property
    def id(self) -> str:
        """The video with the times of its range."""
        times = [f"{time:.3f}" for time in (self.start, self.end) if time is not None]
        return " ".join([str(self.video), *times])


class TrainedRun:
    """A finished run in memory, to translate many videos with; see ``load_run``."""

    def __init__(self, loaded: Run, spec: str | Path | None, device: str) -> None:
        self._loaded, self._device = loaded, device
        self._spec, self._spec_file = resolve.run_spec(loaded.folder, spec)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._loaded.path

    @property
    def pipeline(self) -> Pipeline:
        """What was trained."""
        return self._loaded.pipeline

    @property
    def summary(self) -> RunSummary | None:
        """What training achieved."""
        return self._loaded.summary

    @property
    def stores(self) -> dict[str, FeatureStore]:
        """Stream -> the store that the run was trained from, wherever that lies now.

        Raises:
            StoreError: no root of ``SPAMO_CACHE`` holds one of them.
        """
        with missing_explained(self.path):
            return self._loaded.stores

    def evaluation(self, name: str = "test") -> Evaluation:
        """The scorecard of an evaluation that was made, with a line per clip.

        Args:
            name: of the evaluation: ``test``, ``test-shuffled``, ``test@motion.stride=4``.

        Raises:
            UsageError: there is no such evaluation of the run.
        """
        return self._loaded.evaluation(name)

    def translate(
        self, video: str | Path, *, start: float | None = None, end: float | None = None
    ) -> str:
        """The sentence of one video.

        Args:
            video: a video file or a folder of frames.
            start: seconds; from here on.
            end: seconds; up to here.

        Raises:
            UsageError: no such video.
            VideoError: it cannot be read.
            WeightsError: the spec's encoders are not those of the run's features.
        """
        (made,) = self.translate_pieces(pieces(video, start=start, end=end))
        if made.text is None:
            raise VideoError(made.reason, where=video)
        return made.text

    def translate_pieces(self, ranges: Sequence[Translation]) -> list[Translation]:
        """Ranges of videos with their texts, or the reasons why there are none.

        Raises:
            UsageError: a stream of the run is computed from poses.
            WeightsError: the spec's encoders are not those of the run's features.
        """
        for name in self.pipeline.streams:
            if name in self._spec.streams and self._spec.streams[name].uses_poses:
                raise UsageError(
                    f"stream {name!r} is computed from poses, and a new video has none",
                    where=self.path,
                    remedy="list the videos in a manifest, make their poses (`spamo-cache pose`), "
                    "then `extract` and `evaluate` them",
                )
        extras.need(*extras.EXTRAS["extract"], use="translating a video")
        from spamo_cache.evaluate import translate_features
        from spamo_cache.store.reader import FeatureStore

        with tempfile.TemporaryDirectory(prefix="spamo-cache-") as scratch:
            summary = self._extract(ranges, Path(scratch))
            failed = dict(summary.failed)
            stores = {name: FeatureStore.open(path) for name, path in summary.stores.items()}
            self._check_encoders(stores)
            made = []
            for piece in ranges:
                if piece.id in failed:
                    made.append(replace(piece, reason=failed[piece.id]))
                    continue
                rows = {name: store.read([piece.id])[0] for name, store in stores.items()}
                marked = {name: store for name, store in stores.items() if store.has_validity}
                valid = {name: store.valid([piece.id])[0] for name, store in marked.items()}
                text = translate_features(self._loaded, rows, valid)
                made.append(replace(piece, text=text))
        return made

    def _extract(self, ranges: Sequence[Translation], scratch: Path) -> Summary:
        from spamo_cache.datasets.manifest import Clip, Manifest
        from spamo_cache.extract.extraction import extract

        pipeline = self._loaded.pipeline
        root = Path(os.path.commonpath([piece.video.resolve().parent for piece in ranges]))
        clips = [
            Clip(
                id=piece.id,
                split="new",
                source=piece.video.resolve().relative_to(root).as_posix(),
                start=piece.start,
                end=piece.end,
                text="?",
                language=pipeline.text.language,
                extra={},
            )
            for piece in ranges
        ]
        return extract(
            Manifest.from_clips("translate", clips),
            root,
            self._spec,
            self._spec_file.parent,
            store_root=scratch,
            streams=pipeline.streams,
            executor="serial",
            device=self._device,
        )

    def _check_encoders(self, stores: Mapping[str, FeatureStore]) -> None:
        """Raise WeightsError unless these features come from the encoders of the run's own."""
        for name, trained in self._loaded.folder.read_about().stores.items():
            made = stores[name].about
            if (made.weights_sha256, made.semantics) != (trained.weights_sha256, trained.semantics):
                raise WeightsError(
                    f"stream {name!r}: {made.weights!r} is not what the run's features were "
                    f"computed with ({made.weights_sha256[:12]}, not "
                    f"{trained.weights_sha256[:12]})",
                    where=self._spec_file,
                    remedy="put the weights back, or name another cache spec by --spec FILE",
                )


def load_run(
    run: RunLike,
    *,
    llm: Path | str | None = None,
    spec: str | Path | None = None,
    device: str = "auto",
) -> TrainedRun:
    """Load a finished run, to translate new videos with it.

    Args:
        run: a run's folder, or what ``train`` returned.
        llm: folder of the run's LLM, where that has moved.
        spec: the run's cache spec, where that has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: no finished run there, or one that tuned its encoders.
        ConfigError: its cache spec is not where it was.
        WeightsError: its LLM is not where it was, or another one.
        DamagedError: a file of the run is not what it was.
    """
    from spamo_cache.runs.load import load_run as load

    loaded = load(resolve.run_path(run), device=device, llm=None if llm is None else Path(llm))
    return TrainedRun(loaded, spec, device)


def translate(
    run: RunLike,
    videos: Videos,
    *,
    start: float | None = None,
    end: float | None = None,
    window: float | None = None,
    overlap: float = 0.0,
    llm: Path | str | None = None,
    spec: str | Path | None = None,
    device: str = "auto",
) -> list[Translation]:
    """Translate new videos with a trained run.

    Args:
        run: a run's folder, or what ``train`` returned.
        videos: video files or folders of frames.
        start: seconds; from here on.
        end: seconds; up to here.
        window: seconds; translate piece by piece.
        overlap: seconds that two windows share.
        llm: folder of the run's LLM, where that has moved.
        spec: the run's cache spec, where that has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        A translation of each video, or of each window of each. One that cannot be read has its
        ``reason`` in place of a ``text``.

    Raises:
        UsageError: no such video or run; impossible windows.
        WeightsError: the LLM or an encoder is not that of the run.
    """
    ranges = pieces(videos, start=start, end=end, window=window, overlap=overlap)
    return load_run(run, llm=llm, spec=spec, device=device).translate_pieces(ranges)


def pieces(
    videos: Videos,
    *,
    start: float | None = None,
    end: float | None = None,
    window: float | None = None,
    overlap: float = 0.0,
) -> list[Translation]:
    """What is to be translated: videos, or windows of them; see ``translate``."""
    listed = [videos] if isinstance(videos, str | Path) else videos
    paths = list(dict.fromkeys(map(Path, listed)))
    for path in paths:
        _check(path)
    whole = [Translation(path, start, end) for path in paths]
    if window is None:
        return whole
    return [one for piece in whole for one in windows(piece, window, overlap)]


_UNREADABLE = re.compile(r"[\\\x00-\x1f\ud800-\udfff]")


def _check(video: Path) -> None:
    """Raise UsageError unless a video is there, under a name that a manifest can hold."""
    if not video.exists():
        raise UsageError("no such video", where=video, remedy="check the path")
    if _UNREADABLE.search(str(video.resolve())):
        raise UsageError(
            "a name with a backslash, a control character or bytes that are not UTF-8 cannot"
            " stand in a manifest, by which every video is read",
            where=video,
            remedy="rename the file, and the folders it lies in",
        )


def windows(piece: Translation, window: float, overlap: float) -> list[Translation]:
    """A range cut into windows of equal length; the last one ends where the range does.

    Raises:
        UsageError: windows that do not move on, or a folder of frames, which has no times.
    """
    from spamo_cache.video.timeline_cache import timeline

    if overlap >= window:
        raise UsageError(f"windows of {window:g} s cannot overlap by {overlap:g} s")
    if piece.video.is_dir():
        raise UsageError(
            "frames without times cannot be cut into windows",
            where=piece.video,
            remedy="give a video file, or leave --window out",
        )
    try:
        times = timeline(piece.video, piece.video.stat())
    except VideoError:
        return [piece]  # reading it will say what is wrong
    # Sound may begin before the picture does.
    start = max(piece.start or 0.0, float(times.seconds[0]))
    end = min(piece.end or times.duration, times.duration)
    count = max(1, ceil((end - start - overlap) / (window - overlap)))
    last = max(start, end - window)
    starts = [min(start + number * (window - overlap), last) for number in range(count)]
    return [Translation(piece.video, first, min(first + window, end)) for first in starts]
