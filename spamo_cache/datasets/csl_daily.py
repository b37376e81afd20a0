"""CSL-Daily: Chinese daily-life sentences, labels in one pickle, splits in a text file.

One clip of the split file is missing from the v2 pickle, one the other way round; both are noted,
neither can be used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spamo_cache.datasets import layout, restricted
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import CorpusError

_VIDEOS = ("sentence-crop", "sentence_crop")
_FRAMES = (
    "sentence/frames_512x512",
    "sentences/frames_512x512",
    "sentence_frames-512x512/frames_512x512",
    "frames_512x512",
)
_LABELS = ("sentence_label/csl2020ct_v*.pkl", "csl2020ct_v*.pkl")
_SPLITS = ("sentence_label/split_1.txt", "split_1.txt")
_NEEDED = ("name", "label_gloss", "label_char")


def read(root: Path) -> Manifest:
    """Manifest of the clips that both the split file and the labels name.

    Raises:
        CorpusError: labels, splits or clips are not found, or the pickle is not plain data.
    """
    pickles, splits = _label_files(layout.require_root(root))
    entries = _entries(pickles[-1])
    rows = layout.rows_of(splits, "|", ("name", "split"))
    place, suffix = _place(root)
    present = layout.names_in(root / place)
    clips, unlabelled, absent = [], [], []
    for row in rows:
        name = row["name"].strip()
        if name not in entries:
            unlabelled.append(name)
            continue
        if (name + suffix if suffix == ".mp4" else name) not in present:
            absent.append(name)
        clips.append(_clip(entries[name], row["split"].strip(), f"{place}/{name}{suffix}"))
    unsplit = entries.keys() - {row["name"].strip() for row in rows}
    notes = [
        *layout.tally(f"in {splits.name} but not in {pickles[-1].name}", unlabelled),
        *layout.tally(f"in {pickles[-1].name} but not in {splits.name}", unsplit),
        *layout.tally("clips without a file", absent),
    ]
    return Manifest.from_clips("csl-daily", clips, notes)


def labels(root: Path) -> list[Path]:
    """The newest pickle and the split file."""
    pickles, splits = _label_files(root)
    return [pickles[-1], splits]


def _label_files(root: Path) -> tuple[list[Path], Path]:
    pickles = sorted(layout.first_files(root, _LABELS), key=_version)
    splits = layout.first_files(root, _SPLITS)
    if not pickles or not splits:
        missing = "csl2020ct_v2.pkl" if not pickles else "split_1.txt"
        raise CorpusError(
            f"no {missing}", where=root, remedy="expected sentence_label/ below the corpus root"
        )
    return pickles, splits[0]


def _version(path: Path) -> int:
    found = re.search(r"_v(\d+)$", path.stem)
    return int(found[1]) if found else 0


def _place(root: Path) -> tuple[str, str]:
    """Folder of the clips, and what follows a clip's name in its source."""
    videos = layout.first_folder(root, _VIDEOS)
    frames = layout.first_folder(root, _FRAMES)
    if frames is not None:
        return frames, "/*.jpg"
    if videos is not None:
        return videos, ".mp4"
    raise CorpusError(
        "no clips found",
        where=root,
        remedy=f"expected {_FRAMES[0]} or {_VIDEOS[0]} below the corpus root",
    )


def _entries(path: Path) -> dict[str, Mapping[str, Any]]:
    document = restricted.load_pickle(path)
    info = document.get("info") if isinstance(document, dict) else None
    if not isinstance(info, list) or not info:
        raise CorpusError("holds no list `info`", where=path, remedy="fetch the file again")
    for number, entry in enumerate(info):
        if not isinstance(entry, dict) or any(key not in entry for key in _NEEDED):
            raise CorpusError(f"entry {number} lacks one of {', '.join(_NEEDED)}", where=path)
    return {str(entry["name"]): entry for entry in info}


def _clip(entry: Mapping[str, Any], split: str, source: str) -> Clip:
    signer = entry.get("signer")
    return Clip(
        id=str(entry["name"]),
        split=split,
        source=source,
        text="".join(entry["label_char"]),
        language="Chinese",
        gloss=" ".join(entry["label_gloss"]),
        signer=None if signer is None else str(signer),
        extra={},
    )
