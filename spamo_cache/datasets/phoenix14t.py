"""PHOENIX14T: German weather forecasts, frames in folders, one CSV per split.

The ``video`` column ends in ``/1/*.png``, yet frames lie in the folder of the clip itself; a stray
``.lprof`` file stands among the frames of one clip, so only ``*.png`` counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spamo_cache import restricted
from spamo_cache.config import TextConfig
from spamo_cache.datasets import layout
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import CorpusError

SPLITS = ("train", "dev", "test")
_BASES = (".", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T")
_FRAMES = ("features/fullFrame-210x260px", "features/fullFrame-256x256px", "features/fullFrame-*")
_COLUMNS = ("name", "video", "speaker", "orth", "translation")
_LANGUAGES = ("en", "es", "fr")


def read(root: Path) -> Manifest:
    """Manifest of the three splits.

    Machine translations for in-context pairs are taken from the official release's
    ``{split}_info_ml.npy`` or ``{split}_info.npy`` where one lies below the root (columns
    ``text_en`` and so on).

    Raises:
        CorpusError: no such layout below ``root``, or a broken label file.
    """
    base = _base(layout.require_root(root))
    frames = layout.require_folder(root, [f"{base}/{name}" for name in _FRAMES])
    clips: list[Clip] = []
    absent: list[str] = []
    notes: list[str] = []
    for path in labels(root):
        split = path.name.split(".")[-3]
        present = layout.names_in(root / frames / split)
        rows = layout.rows_of(path, "|", _COLUMNS)
        names = {row["name"] for row in rows}
        absent += names - present
        info: Mapping[str, Mapping[str, Any]] = {}
        if (file := _info_file(root, base, split)) is not None:
            info = read_info(file)
            notes += layout.one_sided(path.name, names, file.name, info)
        clips += [_clip(row, split, frames, info.get(row["name"], {})) for row in rows]
    notes += layout.tally(layout.ABSENT, absent)
    return Manifest.from_clips("phoenix14t", clips, notes)


def labels(root: Path) -> list[Path]:
    """The CSVs of the splits, in the order train, dev, test."""
    folder = root / _base(root) / "annotations/manual"
    paths = [folder / f"PHOENIX-2014-T.{split}.corpus.csv" for split in SPLITS]
    return [path for path in paths if path.is_file()]


def read_info(path: Path) -> dict[str, dict[str, Any]]:
    """The official release's ``{split}_info*.npy``: its entries by ``fileid``.

    Raises:
        CorpusError: unreadable, or asks to run something.
    """
    document = restricted.load_npy(path)
    entries = document.values() if isinstance(document, dict) else ()
    by_id = {str(entry["fileid"]): entry for entry in entries if _is_entry(entry)}
    if not by_id:
        raise CorpusError("holds no entries of the official release", where=path)
    return by_id


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and "fileid" in entry


def _base(root: Path) -> str:
    for base in _BASES:
        if (root / base / "annotations/manual").is_dir():
            return base
    raise CorpusError(
        "this is not the PHOENIX14T release",
        where=root,
        remedy="the root is the folder that holds annotations/manual and features",
    )


def _info_file(root: Path, base: str, split: str) -> Path | None:
    folders = (".", base, "preprocess/Phoenix14T")
    names = (f"{split}_info_ml.npy", f"{split}_info.npy")
    files = layout.first_files(root, (f"{place}/{name}" for name in names for place in folders))
    return files[0] if files else None


def _clip(row: Mapping[str, str], split: str, frames: str, info: Mapping[str, Any]) -> Clip:
    name = row["name"]
    return Clip(
        id=name,
        split=split,
        source=f"{frames}/{split}/{name}/*.png",
        text=row["translation"].strip(),
        language="German",
        gloss=row["orth"].strip(),
        signer=row["speaker"],
        extra={
            f"text_{code}": info[f"{code}_text"] for code in _LANGUAGES if f"{code}_text" in info
        },
    )


CORPUS = Corpus(
    name="phoenix14t",
    title="RWTH-PHOENIX-Weather 2014 T",
    language="German",
    sign_language="German Sign Language (DGS)",
    terms=(
        "Distributed by RWTH Aachen for non-commercial research, to be cited when used. Full "
        "terms: https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX-2014-T/"
    ),
    fps=25.0,
    text=TextConfig(language="German", lower=True, final_dot=True),
    read=read,
    labels=labels,
    expected={"train": 7_096, "dev": 519, "test": 642},
    frames={"train": 827_354, "dev": 55_775, "test": 64_627},
    frame_size=(210, 260),
    caveats=(
        'scores are published with " ." after every sentence, worth a point of BLEU-4, and without',
    ),
)
