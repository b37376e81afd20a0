"""How2Sign: American Sign Language instructions, cut from the raw videos by time.

The label files end in ``.csv`` and are separated by tabs. The release's ready-made clips do not
fit the re-aligned times, so the raw videos are read. Its split ``val`` is called ``dev`` here.
"""

from __future__ import annotations

from pathlib import Path

from spamo_cache.config import TextConfig
from spamo_cache.datasets import layout
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.layout import TimedClips, VideoFolder, unquoted
from spamo_cache.datasets.manifest import Manifest

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
    timed = TimedClips()
    for split, path in _label_files(layout.require_root(root)).items():
        place = layout.require_folder(root, [name.format(split=split) for name in _VIDEOS])
        folder = VideoFolder(root, place)
        for row in layout.rows_of(path, "\t", _COLUMNS):
            timed.add(
                row["SENTENCE_NAME"],
                folder=folder,
                video=row["VIDEO_NAME"],
                start=row["START_REALIGNED"],
                end=row["END_REALIGNED"],
                text=unquoted(row["SENTENCE"]),
                split=SPLITS[split],
                language="English",
                extra={"video": row["VIDEO_ID"], "sentence": row["SENTENCE_ID"]},
            )
    return Manifest.from_clips("how2sign", timed.clips, timed.notes())


def labels(root: Path) -> list[Path]:
    """The re-aligned tables, in the order train, val, test."""
    return list(_label_files(root).values())


def _label_files(root: Path) -> dict[str, Path]:
    paths_of = {
        split: layout.first_files(root, (name.format(split=split) for name in _LABELS))
        for split in SPLITS
    }
    if not any(paths_of.values()):
        raise layout.no_such_file(root, "how2sign_realigned_{train,val,test}.csv")
    return {split: paths[0] for split, paths in paths_of.items() if paths}


CORPUS = Corpus(
    name="how2sign",
    title="How2Sign",
    language="English",
    sign_language="American Sign Language (ASL)",
    terms=(
        "Licensed CC BY-NC 4.0: research without commercial use, with attribution. Full terms: "
        "https://how2sign.github.io/"
    ),
    fps=24.0,
    text=TextConfig(language="English"),
    read=read,
    labels=labels,
    expected={"train": 31_165, "dev": 1_741, "test": 2_357},
    missing={"train": 117, "dev": 2, "test": 14},
    frame_size=(1280, 720),
    caveats=(
        "papers score different numbers of test clips: always report n",
        "BLEURT-20 is usual beside BLEU",
    ),
)
