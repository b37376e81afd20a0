"""The official release's annotation files, so that its code can train from exported features."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.source_files import VIDEO_SUFFIXES

_LANGUAGES = ("en", "es", "fr")


def write_annotations(
    manifest: Manifest, folder: Path, *, frames: Mapping[str, int], file_name: Callable[[str], str]
) -> int:
    """Write ``<split>_info_ml.npy`` for each split, as the release's data set class loads them.

    ``prefix`` is the folder of all clips, and ``folder`` of an entry what stands below it, as in
    ``dev/11August_2010_Wednesday_tagesschau-2/*.png``: the release's scripts join it to a folder
    that they name themselves. A video's ``folder`` is its path below the corpus's root, which
    they open as it is.

    Pickled, because that code reads nothing else; nothing here ever loads such a file.

    Args:
        folder: an existing folder.
        frames: clip -> its number of frames, of those with features; others are left out, for
            that code would drop them.
        file_name: what a clip's file is called.

    Returns:
        Number of clips written.

    Raises:
        OSError: a folder that cannot be written.
    """
    count = 0
    prefix = _prefix(manifest)
    for split in manifest.splits:
        kept = [clip for clip in manifest.clips(split) if clip.id in frames]
        entries: dict[Any, Any] = {
            "prefix": prefix,
            **dict(enumerate(_entry(c, prefix, frames[c.id], file_name) for c in kept)),
        }
        document = np.array(entries, dtype=object)
        np.save(folder / f"{file_name(split)}_info_ml.npy", document, allow_pickle=True)
        count += len(kept)
    return count


def _prefix(manifest: Manifest) -> str:
    """What the paths of all folders of images begin with, the names of splits left out."""
    folders = {
        str(PurePosixPath(_images(clip.source)).parent.parent)
        for clip in manifest.clips()
        if not _is_video(clip.source)
    }
    if not folders:
        return ""
    prefix = PurePosixPath(posixpath.commonpath(folders))
    # Of one split alone, its own folder is common to all.
    prefix = prefix.parent if prefix.name in manifest.splits else prefix
    return "" if prefix == PurePosixPath() else str(prefix)


def _is_video(source: str) -> bool:
    return PurePosixPath(source).suffix.lower() in VIDEO_SUFFIXES


def _images(source: str) -> str:
    """A pattern of a clip's images: the release globs for them."""
    return source if any(mark in source for mark in "*?[") else f"{source}/*"


def _entry(clip: Clip, prefix: str, frames: int, file_name: Callable[[str], str]) -> dict[str, Any]:
    folder = clip.source
    if not _is_video(folder):
        folder = posixpath.relpath(_images(folder), prefix or ".")
    # Where How2Sign's clips begin and end, the release's scripts look up here.
    times = {"START_REALIGNED": clip.start, "END_REALIGNED": clip.end}
    return {
        "fileid": file_name(clip.id),
        "folder": folder,
        "signer": clip.signer or "",
        "gloss": clip.gloss or "",
        "text": clip.text,
        "num_frames": frames,
        "original_info": clip.id if clip.start is None and clip.end is None else times,
        **{f"{code}_text": str(clip.extra.get(f"text_{code}", "")) for code in _LANGUAGES},
    }
