"""OpenASL: American Sign Language from online videos; one table, one file of boxes.

The table cuts clips from the downloaded videos by time; ids hold ``:`` and boxes are shares of
width and height. The release's own script widens a box to a square; here the box is taken as it is.
Its split ``valid`` is called ``dev`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spamo_cache import bounded
from spamo_cache.config import TextConfig
from spamo_cache.datasets import layout
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.layout import TimedClips, VideoFolder, unquoted
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import CorpusError

_COLUMNS = ("vid", "yid", "start", "end", "raw-text", "split")
_LABELS = ("data/openasl-v*.tsv", "openasl-v*.tsv", "**/openasl-v*.tsv")
_BOXES = ("data/bbox-v*.json", "bbox-v*.json", "**/bbox-v*.json")
_VIDEOS = ("raw-video", "raw_video", "raw_videos", "raw", "videos")
_SPLITS = {"valid": "dev", "val": "dev"}

Box = tuple[float, float, float, float]


def read(root: Path) -> Manifest:
    """Manifest of all rows with a usable time range; missing videos are noted, not dropped.

    Raises:
        CorpusError: no table or no folder of videos, or a broken row or box.
    """
    table, *boxes_file = labels(layout.require_root(root))
    folder = VideoFolder(root, layout.require_folder(root, _VIDEOS))
    boxes = _boxes(boxes_file[0]) if boxes_file else {}
    timed, unboxed = TimedClips(), []
    for row in layout.rows_of(table, "\t", _COLUMNS):
        box = boxes.get(row["vid"])
        if box is None:
            unboxed.append(row["vid"])
        timed.add(
            row["vid"],
            folder=folder,
            video=row["yid"],
            start=row["start"],
            end=row["end"],
            text=unquoted(row["raw-text"]),
            split=_SPLITS.get(row["split"], row["split"]),
            language="English",
            crop=box,
            gloss=row.get("gloss") or None,
            extra={"video": row["yid"]},
        )
    whole = layout.tally("clips without a box: the whole frame is taken", unboxed)
    return Manifest.from_clips("openasl", timed.clips, [*timed.notes(), *whole])


def labels(root: Path) -> list[Path]:
    """The newest table, and the newest file of boxes if there is one."""
    tables = layout.first_files(root, _LABELS)
    if not tables:
        raise layout.no_such_file(root, "openasl-v1.0.tsv")
    return [tables[-1], *layout.first_files(root, _BOXES)[-1:]]


def _boxes(path: Path) -> Mapping[str, Box]:
    try:
        document = bounded.parse_json(layout.read_text(path))
        return {clip: _box(edges) for clip, edges in document.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CorpusError(
            f"is no table of boxes x0, y0, x1, y1 by id: {error}",
            where=path,
            remedy="fetch the file again",
        ) from None


def _box(edges: list[float]) -> Box:
    # Boxes come from a detector: some reach over the edge of the frame.
    x0, y0, x1, y1 = (min(max(float(edge), 0.0), 1.0) for edge in edges)
    return x0, y0, x1, y1


CORPUS = Corpus(
    name="openasl",
    title="OpenASL",
    language="English",
    sign_language="American Sign Language (ASL)",
    terms=(
        "Annotations licensed CC BY-NC-ND 4.0; the videos are their uploaders' and may vanish. "
        "Full terms: https://github.com/chevalierNoir/OpenASL/"
    ),
    fps=None,
    text=TextConfig(language="English"),
    read=read,
    labels=labels,
    caveats=("videos vanish from the web, so copies differ: always report n",),
)
