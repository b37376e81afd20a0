"""How2Sign: American Sign Language instructions, cut from the raw videos by time.

The label files end in ``.csv`` and are separated by tabs. The release's ready-made clips do not
fit the re-aligned times, so the raw videos are read. Its split ``val`` is called ``dev`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from spamo_cache.datasets import layout
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import CorpusError

SPLITS = {"train": "train", "val": "dev", "test": "test"}
_COLUMNS = (
    "VIDEO_ID",
    "VIDEO_NAME",
    "SENTENCE_ID",
    "SENTENCE_NAME",
    "START_REALIGNED",
    "END_REALIGNED",
    "SENTENCE",
)
_LABELS = (
    "how2sign_realigned_{split}.csv",
    "sentence_level/{split}/text/en/raw_text/re_aligned/how2sign_realigned_{split}.csv",
    "**/how2sign_realigned_{split}.csv",
)
_VIDEOS = (
    "video_level/{split}/rgb_front/raw_videos",
    "{split}/rgb_front/raw_videos",
    "{split}/raw_videos",
    "{split}_raw_videos/raw_videos",
    "raw_videos",
    "videos",
)


def read(root: Path) -> Manifest:
    """Manifest of all rows with a usable time range; missing videos are noted, not dropped.

    Raises:
        CorpusError: no label file or no folder of videos, or a broken row.
    """
    clips: list[Clip] = []
    absent: list[str] = []
    unusable: list[str] = []
    for split, path in _label_files(layout.require_root(root)).items():
        place = layout.first_folder(root, (name.format(split=split) for name in _VIDEOS))
        if place is None:
            raise CorpusError(
                f"no raw videos of split {split!r}",
                where=root,
                remedy=f"expected {_VIDEOS[0].format(split=split)} below the corpus root",
            )
        present = layout.names_in(root / place)
        for row in layout.rows_of(path, "\t", _COLUMNS):
            times = _times(row)
            if times is None:
                unusable.append(row["SENTENCE_NAME"])
                continue
            clips.append(_clip(row, SPLITS[split], place, times))
            if f"{row['VIDEO_NAME']}.mp4" not in present:
                absent.append(row["SENTENCE_NAME"])
    notes = [
        *layout.tally("clips whose video is missing", absent),
        *layout.tally("rows left out for an empty or broken time range", unusable),
    ]
    return Manifest.from_clips("how2sign", clips, notes)


def labels(root: Path) -> list[Path]:
    """The re-aligned tables, in the order train, val, test."""
    return list(_label_files(root).values())


def _label_files(root: Path) -> dict[str, Path]:
    found = {
        split: layout.first_files(root, (name.format(split=split) for name in _LABELS))
        for split in SPLITS
    }
    if not any(found.values()):
        raise CorpusError(
            "no how2sign_realigned_{train,val,test}.csv",
            where=root,
            remedy="fetch the re-aligned English translations of How2Sign",
        )
    return {split: paths[0] for split, paths in found.items() if paths}


def _times(row: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        start, end = float(row["START_REALIGNED"]), float(row["END_REALIGNED"])
    except ValueError:
        return None
    return (start, end) if isfinite(end) and 0 <= start < end else None


def _clip(row: Mapping[str, str], split: str, place: str, times: tuple[float, float]) -> Clip:
    return Clip(
        id=row["SENTENCE_NAME"],
        split=split,
        source=f"{place}/{row['VIDEO_NAME']}.mp4",
        start=times[0],
        end=times[1],
        text=_unquoted(row["SENTENCE"]).strip(),
        language="English",
        extra={"video": row["VIDEO_ID"], "sentence": row["SENTENCE_ID"]},
    )


def _unquoted(cell: str) -> str:
    """Copies rewritten by spreadsheet tools quote sentences; a quote inside is doubled there."""
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell
