"""What the other functions work on, read by name, path or address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache.workflow import EMBEDDED, resolve
from spamo_cache.workflow.resolve import Changes
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.config import CacheSpec, Pipeline
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store.inventory import StoreEntry
    from spamo_cache.store.reader import FeatureStore


def load_corpus(
    dataset: str | None = None,
    *,
    root: Path | str | None = None,
    manifest: Path | str | None = None,
    size: int | None = None,
    limit: int | None = None,
    watcher: Watcher = QUIET,
) -> Manifest:
    """The manifest of a corpus: one row per clip.

    Args:
        dataset: corpus by name; with a manifest, the name of its corpus, which a CSV file lacks.
            None is the bundled one, which is drawn first if it is not there yet, or the one that
            the manifest says.
        root: folder of the raw corpus.
        manifest: table of the clips (CSV, TSV, JSON Lines, Parquet), in place of a known corpus.
        size: clips of the bundled corpus to draw.
        limit: at most this many clips of each split.
        watcher: is told of progress.

    Raises:
        UsageError: an unknown corpus, or a missing folder.
        CorpusError: no such corpus in the folder, or a faulty table.
    """
    table, _ = resolve.load_manifest(
        dataset, manifest, root, size=size, limit=limit, watcher=watcher
    )
    return table


def load_spec(spec: str | Path = "spamo", *, set: Changes = ()) -> CacheSpec:  # noqa: A002
    """A cache spec: how streams of features are computed.

    Args:
        spec: its file, or its name in ``cache_specs/``.
        set: changes, as ``{"streams.motion.stride": 4}``.

    Raises:
        ConfigError: there is none of that name, or it cannot be used.
    """
    return resolve.named_spec(spec, changes=resolve.changes(set))[0]


def load_pipeline(pipeline: str | Path = EMBEDDED, *, set: Changes = ()) -> Pipeline:  # noqa: A002
    """A pipeline: what is trained, from which streams, and how.

    Args:
        pipeline: its file, or a folder of ``pipelines/`` by name.
        set: changes, as ``{"translate.lr": 1e-4}``.

    Raises:
        ConfigError: there is none of that name, or it cannot be used.
    """
    return resolve.named_pipeline(pipeline, resolve.changes(set))[0]


def open_store(name: str | Path, *, store: str | Path | None = None) -> FeatureStore:
    """Open a feature store for reading.

    Args:
        name: path, address, or ``CORPUS/STREAM`` with or without ``-FINGERPRINT``, which is looked
            for in the roots; ``CORPUS`` will do for a corpus with a single store.
        store: root to look into before those of ``SPAMO_CACHE``.

    Raises:
        UsageError: there is none of that name, or more than one.
        StoreError: it cannot be read; DamagedError where it is not what was written.
    """
    from spamo_cache.store.reader import FeatureStore

    return FeatureStore.open(resolve.located(str(name), resolve.store_roots(store)))


def list_stores(names: Sequence[str | Path] | None = None) -> list[StoreEntry]:
    """The stores of every root, in the order in which roots are searched.

    Args:
        names: only these: roots by folder or address, corpora, or stores as :func:`open_store`
            takes them; None is all of ``SPAMO_CACHE``'s roots.

    Raises:
        UsageError: a name that no root has, or no such folder.
    """
    from spamo_cache.store import inventory

    return inventory.list_stores(None if names is None else [str(name) for name in names])
