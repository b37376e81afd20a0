"""The official release's annotation files, so that its code can train from exported features."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache.datasets.manifest import Clip, Manifest

_LANGUAGES = ("en", "es", "fr")


def write_annotations(
    manifest: Manifest, folder: Path, *, clips: Collection[str], file_name: Callable[[str], str]
) -> int:
    """Write ``<split>_info_ml.npy`` for each split, as the release's data set class loads them.

    Pickled, because that code reads nothing else; nothing here ever loads such a file.

    Args:
        folder: an existing folder.
        clips: those with features; others are left out, for that code would drop them.
        file_name: what a clip's file is called.

    Returns:
        Number of clips written.

    Raises:
        OSError: a folder that cannot be written.
    """
    count = 0
    for split in manifest.splits:
        kept = [clip for clip in manifest.clips(split) if clip.id in clips]
        entries: dict[Any, Any] = {
            "prefix": "",
            **dict(enumerate(_entry(c, file_name) for c in kept)),
        }
        document = np.array(entries, dtype=object)
        np.save(folder / f"{file_name(split)}_info_ml.npy", document, allow_pickle=True)
        count += len(kept)
    return count


def _entry(clip: Clip, file_name: Callable[[str], str]) -> dict[str, str]:
    return {
        "fileid": file_name(clip.id),
        "folder": clip.source,
        "signer": clip.signer or "",
        "gloss": clip.gloss or "",
        "text": clip.text,
        "original_info": clip.id,
        **{f"{code}_text": str(clip.extra.get(f"text_{code}", "")) for code in _LANGUAGES},
    }
