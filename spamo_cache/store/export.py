"""Features for those who read HDF5 or ``.npy``, also under the official release's names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import h5py
import numpy as np
from numpy.typing import NDArray

from spamo_cache import io
from spamo_cache.errors import UsageError
from spamo_cache.store.layout import canonical, sha256
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location

Naming = Literal["ids", "official"]

MARKER = "spamo-cache.json"
"""Beside exported files: which clip each of them is, so that they come back exactly."""


def export_npy(
    store: Location, folder: Path, *, naming: Naming = "ids", dtype: str | None = None
) -> int:
    """Write each clip's features to ``<folder>/<split>/<name>.npy``.

    Args:
        naming: ``ids``, or ``official``: the names that the official release reads.
        dtype: of the files; None is the store's, or float32 with official names.

    Returns:
        Number of clips written; failed and absent ones have no file.

    Raises:
        UsageError: the folder holds files already, or the release has no such stream.
        StoreError: a store that cannot be read, a folder that cannot be written.
    """
    features = FeatureStore.open(store)
    ending = _ending(features) if naming == "official" else ""
    kept = np.dtype(dtype or ("float32" if naming == "official" else features.dtype))
    with io.reading(folder):
        if folder.exists() and any(folder.iterdir()):
            raise UsageError("the folder is not empty", where=folder, remedy="give a new one")
    listed: dict[str, dict[str, str]] = {}
    with io.writing(folder):
        for split, clip, rows in _clips(features):
            name = f"{file_name(split)}/{file_name(clip)}{ending}.npy"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # In memory first: numpy does not say why a disk refuses.
            data = BytesIO()
            np.save(data, rows.astype(kept, copy=False), allow_pickle=False)
            (folder / name).write_bytes(data.getvalue())
            listed[name] = {"id": clip, "split": split}
        document = {"clips": listed, "store": _provenance(features)}
        (folder / MARKER).write_bytes(canonical(document))
    return len(listed)


def export_hdf5(store: Location, file: Path) -> int:
    """Write one dataset for each clip, ``<split>/<id>``, with provenance as attributes.

    Returns:
        Number of clips written; failed and absent ones have no dataset.

    Raises:
        UsageError: the file exists.
        StoreError: a store that cannot be read, a folder that cannot be written.
    """
    with io.reading(file):
        if file.exists():
            raise UsageError("the file exists", where=file, remedy="give another name")
    features = FeatureStore.open(store)
    unfinished = file.with_name(f"{file.name}.tmp")
    with io.writing(file):
        try:
            count = _fill(unfinished, features)
            io.sync(unfinished)
            unfinished.replace(file)
        except BaseException:
            io.discard(unfinished)
            raise
    return count


def _fill(file: Path, features: FeatureStore) -> int:
    """Write all clips to an HDF5 file; how many.

    Raises:
        OSError: the disk refuses.
    """
    count = 0
    try:
        with h5py.File(file, "w") as opened:
            opened.attrs["spamo_cache"] = canonical(_provenance(features)).decode("ascii")
            for split, clip, rows in _clips(features):
                name = f"{file_name(split)}/{file_name(clip)}"
                dataset = opened.create_dataset(name, data=rows, track_times=False)
                dataset.attrs["id"], dataset.attrs["split"] = clip, split
                count += 1
    except (OSError, RuntimeError, ValueError) as error:
        # HDF5 tells the system's own error as text, among much else.
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(file)) from error
    return count


def _clips(features: FeatureStore) -> Iterator[tuple[str, str, NDArray[Any]]]:
    for split in features.splits:
        for clip in features.select(split=split, state="ok"):
            yield split, clip, features.read([clip])[0]


def _ending(features: FeatureStore) -> str:
    spec = features.attributes["spec"]
    if features.stream == "spatial":
        return "_s2wrapping"
    if features.stream == "motion":
        return f"_overlap-{spec.get('window', 16) - spec.get('stride', 8)}-pretrained"
    raise UsageError(f"the official release has no stream {features.stream!r}")


def _provenance(features: FeatureStore) -> dict[str, Any]:
    named = ("corpus", "stream", "fingerprint", "spec", "weights", "weights_sha256", "terms")
    return {name: features.attributes[name] for name in named}


def file_name(text: str) -> str:
    """``text`` where it can name a file anywhere, else a form of it that can."""
    plain = text == text.strip() and not text.startswith(".") and text.isprintable()
    if plain and not set(text) & set('/\\:*?"<>|%') and 0 < len(text.encode()) <= 200:
        return text
    # Not to be read back: the true id stands in the marker or attribute.
    return f"{quote(text, safe='')[:80]}%{sha256(text.encode())[:16]}"
