"""CSL-Daily: Chinese daily-life sentences, labels in one pickle, splits in a text file.

One clip of the split file is missing from the v2 pickle, one the other way round; both are noted,
neither can be used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spamo_cache import restricted
from spamo_cache.config import TextConfig
from spamo_cache.datasets import layout
from spamo_cache.datasets.corpus import Corpus
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
    split = [(row["name"].strip(), row["split"].strip()) for row in rows]
    place, suffix = _place(root)
    present = {name.removesuffix(".mp4") for name in layout.names_in(root / place)}
    clips = [
        _clip(entries[name], part, f"{place}/{name}{suffix}")
        for name, part in split
        if name in entries
    ]
    notes = [
        *layout.tally(f"not read, {pickles[-1].name} is newer", (p.name for p in pickles[:-1])),
        *layout.one_sided(splits.name, dict(split), pickles[-1].name, entries),
        *layout.tally(layout.ABSENT, {clip.id for clip in clips} - present),
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
        raise layout.no_such_file(root, f"sentence_label/{missing}")
    return pickles, splits[0]


def _version(path: Path) -> int:
    version = re.search(r"_v(\d+)$", path.stem)
    return int(version[1]) if version else 0


def _place(root: Path) -> tuple[str, str]:
    """Folder of the clips, and what follows a clip's name in its source."""
    place = layout.require_folder(root, (*_FRAMES, *_VIDEOS))
    return place, ".mp4" if place in _VIDEOS else "/*.jpg"


def _entries(path: Path) -> dict[str, Mapping[str, Any]]:
    document = restricted.load_pickle(path)
    info = document.get("info") if isinstance(document, dict) else None
    if not isinstance(info, list) or not info:
        raise CorpusError("holds no list `info`", where=path, remedy="fetch the file again")
    for number, entry in enumerate(info):
        if not isinstance(entry, dict) or any(key not in entry for key in _NEEDED):
            raise CorpusError(f"entry {number} lacks one of {', '.join(_NEEDED)}", where=path)
    entries = {str(entry["name"]): entry for entry in info}
    if len(entries) < len(info):
        raise CorpusError("names a clip twice", where=path, remedy="fetch the file again")
    return entries


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


CORPUS = Corpus(
    name="csl-daily",
    title="CSL-Daily",
    language="Chinese",
    sign_language="Chinese Sign Language (CSL)",
    terms=(
        "Given out by the University of Science and Technology of China for research, to those "
        "who sign its agreement (members of staff, not students). Full terms: "
        "https://ustc-slr.github.io/datasets/2021_csl_daily/"
    ),
    fps=30.0,
    text=TextConfig(language="Chinese", tokenize="zh"),
    read=read,
    labels=labels,
    expected={"train": 18_401, "dev": 1_077, "test": 1_176},
    frame_size=(512, 512),
    caveats=(
        "two label versions circulate, in which 1,289/41/49 sentences of train/dev/test differ: "
        "report the hash of the pickle",
        "BLEU counts characters (zh); leaving out the final punctuation costs 0.75",
    ),
)
