"""Features of others, and for others: stores between roots, and arrays in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spamo_cache import config
from spamo_cache.errors import UsageError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.resolve import Names
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.store.copy import Copied
    from spamo_cache.store.exchange import Imported
    from spamo_cache.store.foreign import Naming
    from spamo_cache.store.remote import Location

_HDF5 = (".h5", ".hdf5")
_WRITTEN = "name a folder, or a .zip, .tar, .h5 or .hdf5 file"
_NOT_WRITTEN = (
    *(".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".npy", ".npz", ".pt", ".pth"),
    *(".pkl", ".pickle", ".mat", ".csv", ".tsv", ".json", ".parquet", ".safetensors", ".zarr"),
)
"""Endings by which people mean a file, not a folder."""


def push(
    name: str,
    root: str,
    *,
    split: Names | None = None,
    ids: Sequence[str] | None = None,
    accept_terms: bool = False,
    create: bool = False,
    private: bool = False,
    watcher: Watcher = QUIET,
) -> Copied:
    """Copy a store to another root, verified; see :func:`copy.copy`.

    Args:
        name: path, address, or ``CORPUS/STREAM`` with or without ``-FINGERPRINT``.
        split: only these splits.
        ids: only the partitions of these clips.
        accept_terms: the corpus's terms of use allow sharing it there.
        create: make the dataset of an ``hf://`` root, where there is none.
        private: make it a private one.
    """
    if private and not create:
        raise UsageError("--private makes a new dataset private", remedy="give --create, too")
    return _copy(
        resolve.located(name),
        root,
        split,
        ids,
        accept_terms=accept_terms,
        create=create,
        private=private,
        watcher=watcher,
    )


def pull(
    name: str,
    *,
    root: str | None = None,
    store: str | None = None,
    split: Names | None = None,
    ids: Sequence[str] | None = None,
    watcher: Watcher = QUIET,
) -> Copied:
    """Copy a store of another root into one's own, verified.

    Args:
        root: where it is; None is the other roots of ``SPAMO_CACHE``.
        store: root to copy to; None is the first of ``SPAMO_CACHE``.
    """
    own = str(resolve.store_root(store))
    roots = [root] if root is not None else [r for r in config.roots() if r != own]
    return _copy(resolve.located(name, roots), own, split, ids, watcher=watcher)


def _copy(
    store: Location,
    root: str,
    split: Names | None,
    ids: Sequence[str] | None,
    *,
    accept_terms: bool = False,
    create: bool = False,
    private: bool = False,
    watcher: Watcher,
) -> Copied:
    from spamo_cache.store.copy import copy

    with watcher.task("copy", store.stem, "partitions") as advance:
        return copy(
            store,
            root,
            splits=resolve.names(split),
            ids=ids,
            accept_terms=accept_terms,
            create=create,
            private=private,
            progress=advance,
        )


def import_features(
    source: Path,
    *,
    corpus: str,
    stream: str,
    official: bool = False,
    manifest: Path | None = None,
    dtype: Literal["float16", "float32"] | None = None,
    store: str | None = None,
) -> Imported:
    """Make a store of features that exist already; see :mod:`store.foreign` for the formats.

    Args:
        source: a folder, or one file.
        corpus: corpus the clips are of.
        stream: stream the features are.
        official: files are named as the official release's.
        manifest: table of the clips there should be.
        dtype: None is the smallest that keeps every value as it is.
        store: root to write to; None is the first of ``SPAMO_CACHE``.
    """
    from spamo_cache.datasets import registry
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store import exchange

    about = registry.CORPORA.get(corpus)
    listed = None if manifest is None else Manifest.read(manifest, corpus=corpus)
    common: dict[str, Any] = {
        "corpus": corpus,
        "stream": stream,
        "dtype": dtype,
        "terms": "" if about is None else about.terms,
        "known": None if listed is None else {clip.id: clip.split for clip in listed.clips()},
    }
    root = resolve.store_root(store)
    return exchange.import_features(source, root, naming=_naming(official), **common)


def export_features(
    name: str, target: Path, *, official: bool = False, manifest: Path | None = None
) -> tuple[int, int]:
    """Write a store's features as HDF5, ``.npy`` (in a folder or a zip) or WebDataset's tar files.

    Args:
        name: path, address, or ``CORPUS/STREAM`` with or without ``-FINGERPRINT``.
        target: new ``.h5``, ``.hdf5`` or ``.zip`` file, or a folder; ``NAME.tar`` stands for
            ``NAME-SPLIT-000000.tar`` and so on.
        official: name the files as the official release does.
        manifest: with ``official``, write its annotation files of these clips, too.

    Returns:
        Clips written, and clips in the annotation files.
    """
    from spamo_cache.store.exchange import (
        export_hdf5,
        export_npy,
        export_webdataset,
        export_zip,
    )

    store = resolve.located(name)
    if manifest is not None and not official:
        raise UsageError("--manifest is for --official", remedy="give both, or neither")
    kind = target.suffix.lower()
    if kind in _NOT_WRITTEN and not target.is_dir():
        raise UsageError(f"no {kind} file is written", where=target, remedy=_WRITTEN)
    if manifest is not None and kind in {*_HDF5, ".zip", ".tar"}:
        raise UsageError("annotations are written into a folder", where=target, remedy=_WRITTEN)
    if kind in {*_HDF5, ".tar"}:
        if official:
            raise UsageError(
                f"the release reads no {kind} file", where=target, remedy="name a folder or a .zip"
            )
        count = (export_webdataset if kind == ".tar" else export_hdf5)(store, target)
    elif kind == ".zip":
        count = export_zip(store, target, naming=_naming(official))
    else:
        annotated: list[int] = []

        def annotate() -> None:
            if manifest is not None:
                annotated.append(_annotate(store, target, manifest))

        count = export_npy(store, target, naming=_naming(official), annotate=annotate)
        return count, sum(annotated)
    return count, 0


def _annotate(store: Location, folder: Path, manifest: Path) -> int:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.datasets.official import write_annotations
    from spamo_cache.io import file_name
    from spamo_cache.store.reader import FeatureStore

    features = FeatureStore.open(store)
    table = Manifest.read(manifest, corpus=features.corpus)
    # Features that came as files have no count; one row of a spatial stream is one frame.
    per_frame = features.stream == "spatial"
    frames = {
        clip: features.slot(clip).frames or (features.rows(clip) if per_frame else 0)
        for clip in features.select(state="ok")
    }
    return write_annotations(table, folder, frames=frames, file_name=file_name)


def _naming(official: bool) -> Naming:
    return "official" if official else "ids"
