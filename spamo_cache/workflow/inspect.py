"""What the encoders see of a clip, as a sheet of pictures."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from spamo_cache import human, io
from spamo_cache.errors import PoseError, UsageError, VideoError
from spamo_cache.workflow import resolve, stores
from spamo_cache.workflow.resolve import Changes, Names
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from spamo_cache.config import CacheSpec, PoseStream, StreamSpec
    from spamo_cache.datasets.manifest import Clip, Manifest
    from spamo_cache.encoders.encoder import Encoder
    from spamo_cache.encoders.preprocess import Resize, ResizeSpec
    from spamo_cache.extract import regions
    from spamo_cache.extract.clip_poses import ClipPose
    from spamo_cache.extract.regions import Boxes, View
    from spamo_cache.video import Probe
    from spamo_cache.workflow.contact_sheet import Block, Box, Picture, Pixels

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_FRAME, _STRIP, _LARGE = 240, 90, 360
"""Heights of the pictures of single frames, of those in windows, and of those that are drawn on."""


def inspect(
    clip: str | Path | None = None,
    output: Path | str = Path("sheet.png"),
    *,
    dataset: str | None = None,
    manifest: Path | str | Manifest | None = None,
    root: Path | str | None = None,
    spec: str | Path | None = None,
    set: Changes = (),  # noqa: A002 (the option is called so)
    streams: Names | None = None,
    rows: int = 4,
    boxes: bool = False,
    poses: Path | str | None = None,
    watcher: Watcher = QUIET,
) -> Path:
    """Draw what every stream sees of a clip: frames after resize and crop, S2 tiles, windows.

    And close-ups of regions, points of poses, and which of these rows are valid. Frames are decoded
    and prepared by the code that extracts features; no weights are needed.

    Args:
        clip: id of a clip, or a video file or folder of frames; None is the corpus's first clip.
        output: the picture to write, ``.png`` or ``.jpg``.
        dataset: corpus by name, one's own after it was extracted; the bundled one by default.
        manifest: table of the clips, in place of a known corpus.
        root: folder of the raw corpus.
        spec: cache spec by name or path; by default that of the corpus's pipeline.
        set: changes of the spec, as ``{"streams.motion.stride": 4}``.
        streams: only these.
        rows: rows of each stream to show, at even distances.
        boxes: draw the boxes of regions on frames first: those of the spec, else of every region.
        poses: folder of ``.pose`` files by id, or the clip's own file; None is the spec's.
        watcher: told of the drawing of the bundled corpus.

    Returns:
        The path of the picture.

    Raises:
        UsageError: no such clip, corpus, folder or stream; a name that is no picture's.
        ConfigError: no such spec.
        WeightsError: the configuration beside a stream's weights is missing.
        VideoError: the clip cannot be read.
        PoseError: it has no pose that could be used, where ``boxes`` or all streams need one.
    """
    path = Path(output)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"cannot write {path.name!r}", remedy="end its name in .png or .jpg")
    if rows < 1:
        raise UsageError(f"{rows} rows cannot be shown", remedy="ask for one or more")
    found = _find(clip, dataset, manifest, root, watcher)
    name = spec or resolve.spec_of(found.corpus)
    chosen, file = resolve.named_spec(name, changes=resolve.changes(set))
    sheet = BytesIO()
    given = found.root / chosen.poses if poses is None else _poses(Path(poses))
    drawn = _sheet(
        found, chosen, file.parent, resolve.names(streams), rows, boxes=boxes, poses=given
    )
    drawn.save(sheet, _FORMATS[path.suffix.lower()], optimize=True, quality=90)
    io.write_output(path, sheet.getvalue(), "the sheet")
    return path


def _poses(given: Path) -> Path:
    return given if given.is_file() else resolve.folder(given)


@dataclass(frozen=True)
class _Found:
    """A clip, the folder that its source lies in, and its corpus (empty for a file alone)."""

    clip: Clip
    root: Path
    corpus: str


def _find(
    name: str | Path | None,
    dataset: str | None,
    manifest: Path | str | Manifest | None,
    root: Path | str | None,
    watcher: Watcher,
) -> _Found:
    from spamo_cache.datasets.manifest import Clip, Manifest

    if name is not None and dataset is None and manifest is None and Path(name).exists():
        file = Path(name).resolve()
        whole = Clip(id=file.name, split="", source=file.name, text="", language="")
        return _Found(whole, file.parent, "")
    known = None if dataset is None or manifest is not None else _extracted(dataset, root)
    if known is not None:
        table, base = known
    elif manifest is None or isinstance(manifest, Manifest):
        table, base = resolve.load_manifest(dataset, manifest, root, watcher=watcher)
    else:
        # A picture is filed under no corpus: any name will do.
        table = Manifest.read(Path(manifest), corpus=dataset or Path(manifest).stem)
        base = resolve.folder(root or Path(manifest).parent)
    clips = {clip.id: clip for clip in table.clips()}
    wanted = next(iter(clips)) if name is None else str(name)
    if wanted not in clips:
        nearest = difflib.get_close_matches(wanted, clips, n=1)
        raise UsageError(
            f"no clip {wanted!r} among {len(clips):,}, and no such file",
            where=f"corpus {table.corpus}",
            remedy=f"nearest is {nearest[0]!r}" if nearest else "name a clip, or a video file",
        )
    return _Found(clips[wanted], base, table.corpus)


def _extracted(corpus: str, root: Path | str | None) -> tuple[Manifest, Path] | None:
    """The manifest and folder of a corpus of one's own, as it was extracted last."""
    from spamo_cache.datasets.registry import CORPORA

    table = None if corpus in CORPORA else stores.remembered(corpus)
    base = stores.at_hand(corpus, root)
    return None if table is None or base is None else (table, base)


@dataclass(frozen=True)
class _Shown:
    """A stream, and the rows of it that are shown."""

    name: str
    stream: StreamSpec
    outline: Encoder
    frames: int
    rows: Sequence[int]
    """Their numbers."""
    reason: str | None = None
    """Why there is nothing to be shown."""

    @property
    def sight(self) -> View | PoseStream:
        """What it is computed from."""
        from spamo_cache.config import PoseStream
        from spamo_cache.extract.regions import View

        stream = self.stream
        return stream if isinstance(stream, PoseStream) else View.of(stream, self.outline)

    def under(self, row: int) -> range:
        """The frames that a row is computed from."""
        start = self.outline.starts(self.frames)[row]
        return range(start, min(start + self.outline.span, self.frames))


def _sheet(
    found: _Found,
    spec: CacheSpec,
    base: Path,
    names: Sequence[str] | None,
    count: int,
    *,
    boxes: bool,
    poses: Path | None,
) -> Image.Image:
    from spamo_cache.encoders.registry import outline
    from spamo_cache.extract.planning import check_names
    from spamo_cache.video import probe
    from spamo_cache.workflow import contact_sheet

    check_names(names, list(spec.streams), "stream")
    outlines = {name: outline(spec.streams[name], base) for name in names or spec.streams}
    probed = probe(found.root, found.clip)
    if probed.reason is not None:
        raise VideoError(
            probed.reason,
            where=found.root / found.clip.source,
            remedy="check --root, and the clip's source and times",
        )
    posed = [name for name in outlines if spec.streams[name].uses_poses]
    pose, why = None, None
    if boxes or posed:
        pose, why = _pose(found, probed, poses, must=boxes or len(posed) == len(outlines))
    shown = [
        _Shown(
            name,
            spec.streams[name],
            encoder,
            probed.frames,
            _spread(encoder.rows(probed.frames), count),
            _unseen(spec.streams[name], pose) or why if name in posed else None,
        )
        for name, encoder in outlines.items()
    ]
    boxed = _boxed(shown, pose) if boxes and pose is not None else {}
    seen = _Seen(found, probed, shown, spec.frames.resize, pose=pose, boxed=boxed, count=count)
    height, width = seen.shape
    title = f"{found.clip.id} of {found.corpus}" if found.corpus else found.clip.id
    length = f"{probed.frames} frames of {width}x{height}"
    note = " · ".join([found.clip.source, length, *seen.times(), f"spec {spec.name}"])
    blocks = [_boxes_block(boxed, seen)] if boxed else []
    return contact_sheet.draw(title, note, blocks + [_block(stream, seen) for stream in shown])


def _pose(
    found: _Found, probed: Probe, poses: Path | None, *, must: bool
) -> tuple[ClipPose | None, str | None]:
    """The clip's pose, or why there is none; raises PoseError where there must be one."""
    from spamo_cache.extract import clip_poses

    try:
        file = clip_poses.find(found.root, poses, found.clip)
        return clip_poses.read(found.root, found.clip, probed, file), None
    except PoseError as error:
        if not must:
            return None, error.what
        raise PoseError(
            error.what,
            where=error.where or found.clip.id,
            remedy=error.remedy or "make it by `spamo-cache pose`, or name it by --poses",
        ) from None


def _unseen(stream: StreamSpec, pose: ClipPose | None) -> str | None:
    """Why a stream has nothing of this pose."""
    from spamo_cache.config import PoseStream
    from spamo_cache.encoders import points
    from spamo_cache.extract import regions

    if pose is None:
        return None
    try:
        if isinstance(stream, PoseStream):
            points.rows(pose.square, stream)
        elif (region := getattr(stream, "region", None)) is not None:
            regions.check(pose.shares, region)
    except PoseError as error:
        return error.what
    return None


def _boxed(shown: Sequence[_Shown], pose: ClipPose) -> dict[str, View]:
    """Regions whose boxes are drawn on frames: those of the streams, else every one there is."""
    from spamo_cache.config.spec import Region
    from spamo_cache.encoders.preprocess import ResizeSpec
    from spamo_cache.extract import regions
    from spamo_cache.extract.regions import View

    sights = {stream.name: stream.sight for stream in shown if stream.reason is None}
    views = {name: sight for name, sight in sights.items() if isinstance(sight, View)}
    found = {name: view for name, view in views.items() if view.region is not None}
    if found:
        return found
    size = ResizeSpec(size=1, shortest=None, interpolation="bilinear")
    return {name: View(size, name) for name in get_args(Region) if regions.has(pose.shares, name)}


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` numbers, at even distances."""
    return sorted({(2 * i + 1) * count // (2 * wanted) for i in range(wanted)})


class _Seen:
    """The frames that are shown, whole and prepared, and when they are shown."""

    def __init__(
        self,
        found: _Found,
        probed: Probe,
        shown: Sequence[_Shown],
        resize: Resize,
        *,
        pose: ClipPose | None,
        boxed: Mapping[str, View],
        count: int,
    ) -> None:
        from spamo_cache.extract.regions import View
        from spamo_cache.video import each_frame

        self._first, self._seconds = _times(found, probed)
        self._resize, self._pose = resize, pose
        self.whole: dict[int, Pixels] = {}
        self.prepared: dict[tuple[View, int], Pixels] = {}
        self.boxes: dict[View, Boxes] = {}
        self.boxed = _spread(probed.frames, count) if boxed else []
        wanted: set[tuple[View, int]] = set()
        whole = set(self.boxed)
        for one in (one for one in shown if one.reason is None):
            sight, under = one.sight, {n for row in one.rows for n in one.under(row)}
            if isinstance(sight, View):
                wanted |= {(sight, number) for number in under}
            if one.outline.span == 1:
                whole |= under
        last = max([0, *whole, *(number for _, number in wanted)])
        with closing(each_frame(found.root, found.clip, probed)) as frames:
            for number, frame in enumerate(islice(frames, last + 1)):
                if not number:
                    self._begin(frame, {*boxed.values(), *(view for view, _ in wanted)})
                if number in whole:
                    self.whole[number] = frame.copy()
                for view in {view for view, wanted_number in wanted if wanted_number == number}:
                    self.prepared[view, number] = self._prepared(view, frame, number)

    def _begin(self, frame: Pixels, views: Collection[View]) -> None:
        from spamo_cache.extract import regions

        self.shape = frame.shape[:2]
        height, width = self.shape
        self.pose = None if self._pose is None else self._pose.scaled(width, height)
        if self.pose is not None:
            self.boxes = {
                view: regions.boxes(self.pose, view.region, view.box)
                for view in views
                if view.region is not None
            }

    def _prepared(self, view: View, frame: Pixels, number: int) -> Pixels:
        from spamo_cache.encoders.preprocess import squares
        from spamo_cache.extract import regions

        frames = frame[None]
        if view in self.boxes:
            frames = regions.crops(frames, self.boxes[view], range(number, number + 1))
        square: Pixels = squares(frames, view.spec, self._resize)[0].copy()
        return square

    def points(self, stream: PoseStream, number: int) -> NDArray[np.float64]:
        """Where the stream's points are in a frame, (n, 2), of those that are seen."""
        from spamo_cache.encoders import points

        if self.pose is None:
            return np.zeros((0, 2))
        places = points.places(self.pose, stream)
        places = places[places >= 0]
        there = places[self.pose.confidence[number, places] > 0]
        found: NDArray[np.float64] = self.pose.points[number, there].astype(np.float64)
        return found

    def valid(self, sight: View | PoseStream) -> NDArray[np.bool_] | None:
        """(rows,) which rows of a stream are valid; None where all are."""
        from spamo_cache.config import PoseStream
        from spamo_cache.encoders import points

        if not isinstance(sight, PoseStream):
            boxes = self.boxes.get(sight)
            return None if boxes is None else boxes.visible[:: sight.stride]
        return None if self.pose is None else points.rows(self.pose, sight)[1]

    def times(self) -> list[str]:
        """When the clip begins and ends; nothing where frames have no times."""
        if self._seconds is None:
            return []
        return [f"{self._seconds[0]:.2f} to {self._seconds[-1]:.2f} s"]

    def label(self, frames: range) -> str:
        """Numbers and times of frames, and their numbers in the source where these are others."""
        first, last = frames[0], frames[-1]
        words = [f"frame {first}" if first == last else f"frames {first} to {last}"]
        if self._first:
            at = self._first + first, self._first + last
            words.append(
                f"{at[0]} of the source" if first == last else f"{at[0]} to {at[1]} of the source"
            )
        if self._seconds is not None:
            start, end = (f"{self._seconds[n]:.2f}" for n in (first, last))
            words.append(f"{start} s" if first == last else f"{start} to {end} s")
        return " · ".join(words)


def _times(found: _Found, probed: Probe) -> tuple[int, NDArray[np.float64] | None]:
    """Number of the clip's first frame in its source, and when its frames are shown."""
    from spamo_cache.datasets.source_files import locate
    from spamo_cache.video import timeline_cache

    if probed.span is None:
        return 0, None
    path, first = locate(found.root, found.clip.source), probed.span.first
    seconds = timeline_cache.timeline(path, path.stat()).seconds
    return first, seconds[first : first + probed.frames]


def _boxes_block(boxed: Mapping[str, View], seen: _Seen) -> Block:
    """Frames with the boxes of regions drawn on them."""
    from spamo_cache.workflow.contact_sheet import Block, Picture, boxes_on

    pictures = []
    for number in seen.boxed:
        found = {name: seen.boxes[view][number] for name, view in boxed.items()}
        drawn = boxes_on(
            seen.whole[number], {name: _edges(box) for name, box in found.items()}, _LARGE
        )
        lost = [name for name, box in found.items() if not box.visible]
        words = f"not visible: {', '.join(lost)}" if lost else "all visible"
        pictures.append(Picture(drawn, f"{seen.label(range(number, number + 1))}\n{words}"))
    shares = [f"{name} {seen.boxes[view].visible.mean():.0%}" for name, view in boxed.items()]
    return Block("boxes", "visible in " + ", ".join(shares) + " of the frames", [pictures])


def _edges(box: regions.Box) -> Box:
    return box.left, box.top, box.left + box.side, box.top + box.side


def _block(view: _Shown, seen: _Seen) -> Block:
    from spamo_cache.workflow.contact_sheet import Block

    if view.reason is not None:
        return Block(view.name, f"nothing to be shown: {view.reason}", [])
    from spamo_cache.extract.regions import View

    rows, sight = view.outline.rows(view.frames), view.sight
    shown = (
        f"{len(view.rows)} of {rows} rows shown"
        if rows > len(view.rows)
        else human.count(rows, "row")
    )
    valid = seen.valid(sight)
    share = [] if valid is None else [f"{np.count_nonzero(valid)} of {rows} rows valid"]
    note = " · ".join([*_described(view), *share, shown])
    if not isinstance(sight, View):
        pictures = [_points(view, sight, row, seen) for row in view.rows]
        return Block(view.name, note, [pictures])
    if view.outline.span > 1:
        return Block(view.name, note, [[_window(view, sight, row, seen)] for row in view.rows])
    groups = [_frame(view, sight, row, seen) for row in view.rows]
    beside = 2 if sum(picture.image.width for picture in groups[0]) < _HALF else 1
    lines = [list(chain(*groups[k : k + beside])) for k in range(0, len(groups), beside)]
    return Block(view.name, note, lines)


_HALF = 740
"""Width up to which two rows stand side by side."""


def _described(view: _Shown) -> Iterator[str]:
    """What is done to frames, in the words of the spec."""
    from spamo_cache.extract.regions import View

    stream, encoder = view.stream, view.outline
    yield f"{stream.encoder} {getattr(stream, 'model', None) or stream.weights}".strip()
    every = "every frame" if encoder.stride == 1 else f"every {encoder.stride} frames"
    if encoder.span == 1:
        yield f"a row {every}"
    else:
        phase = f" from frame {encoder.phase} on" if encoder.phase else ""
        padded = ", the last one padded" if encoder.tail == "pad" else ""
        yield f"windows of {encoder.span} frames, one {every}{phase}{padded}"
    sight = view.sight
    if not isinstance(sight, View):
        yield f"{encoder.width // 3} points"
        return
    resize = sight.spec
    square = f"{resize.size}x{resize.size}"
    if sight.region is not None:
        yield f"{sight.region}, resized to {square} ({resize.interpolation})"
    elif resize.shortest is None:
        yield f"squashed to {square} ({resize.interpolation})"
    else:
        yield f"short side to {resize.shortest} px ({resize.interpolation}), centre crop {square}"


def _row(view: _Shown, row: int, seen: _Seen) -> str:
    valid = seen.valid(view.sight)
    return f"row {row}" if valid is None or valid[row] else f"row {row}, not valid"


def _points(view: _Shown, stream: PoseStream, row: int, seen: _Seen) -> Picture:
    """A frame with the points of a row on it."""
    from spamo_cache.workflow.contact_sheet import Picture, dotted

    (number,) = view.under(row)
    found = seen.points(stream, number)
    words = f"{_row(view, row, seen)} · {len(found)} of {view.outline.width // 3} points seen"
    drawn = dotted(seen.whole[number], found, _LARGE)
    return Picture(drawn, f"{words}\n{seen.label(range(number, number + 1))}")


def _frame(view: _Shown, sight: View, row: int, seen: _Seen) -> list[Picture]:
    """A row of single frames: the frame as it is decoded, then each scale of what is shown."""
    from spamo_cache.workflow.contact_sheet import Picture, outlined, tiled

    (number,) = view.under(row)
    whole, square = seen.whole[number], seen.prepared[sight, number]
    if sight in seen.boxes:
        kept = _edges(seen.boxes[sight][number])
    else:
        kept = _kept(whole.shape[0], whole.shape[1], sight.spec)
    label = f"{_row(view, row, seen)}\n{seen.label(range(number, number + 1))}"
    pictures = [Picture(outlined(whole, kept, _FRAME), label)]
    for scale in getattr(view.stream, "scales", (1,)):
        tiles = scale_tiles(square, scale)
        words = f"scale {scale}" if scale == 1 else f"scale {scale}: {scale * scale} pictures"
        image = tiled(tiles, scale, _FRAME)
        pictures.append(Picture(image, f"{words}\nof {sight.spec.size}x{sight.spec.size} px"))
    return pictures


def _kept(height: int, width: int, spec: ResizeSpec) -> Box:
    """The part of a frame that the centre crop leaves, in the frame's own pixels."""
    from spamo_cache.encoders.preprocess import resized

    high, wide = resized(height, width, spec)
    top, left = (high - spec.size) // 2 * height / high, (wide - spec.size) // 2 * width / wide
    bottom, right = top + spec.size * height / high, left + spec.size * width / wide
    return round(left), round(top), round(right), round(bottom)


def scale_tiles(square: Pixels, scale: int) -> list[Pixels]:
    """The pictures that a scale of S2 makes of a prepared frame, row by row.

    Args:
        square: (size, size, 3) RGB.

    Returns:
        ``scale * scale`` pictures of the same size; of scale 1 the frame itself.
    """
    import torch

    from spamo_cache.encoders.spatial import bicubic, crops

    # Enlarging is linear: what is seen does not depend on the normalisation before it.
    base = torch.from_numpy(square).permute(2, 0, 1)[None].float()
    pieces = crops(base, scale, bicubic(square.shape[0], scale))[0]
    levels = pieces.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return list(levels.numpy())


def _window(view: _Shown, sight: View, row: int, seen: _Seen) -> Picture:
    """The frames of a window, in the order in which the network sees them."""
    import torch

    from spamo_cache.encoders.encoder import window
    from spamo_cache.workflow.contact_sheet import Picture, strip

    under, span = view.under(row), view.outline.span
    prepared = torch.from_numpy(np.stack([seen.prepared[sight, n] for n in under]))
    words = f"row {row} · {seen.label(under)}"
    if repeated := span - len(under):
        words += f" · the last one {repeated + 1} times"
    return Picture(strip(window(prepared, 0, span).numpy(), _STRIP), words)
