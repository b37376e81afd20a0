"""Which stores a pipeline reads: those of the last extraction, unless the user names others."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from spamo_cache import config
from spamo_cache.config import Pipeline
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.remote import Location

_MANIFEST, _STORES = "manifest.parquet", "stores.json"
_REMEMBERED = 64
_AGAIN = "run `spamo-cache extract` again: it computes nothing twice, and notes it anew"


def remember(manifest: Manifest, stores: Iterable[Location]) -> None:
    """Note what was extracted last of a corpus, so that ``train`` needs to be told nothing."""
    from spamo_cache import io
    from spamo_cache.store.leases import Leases

    try:
        before = _Note.of(manifest.corpus).there()
    except DamagedError:
        before = []
    listed = list(dict.fromkeys(map(_place, [*stores, *before])))
    folder, data = _folder(manifest.corpus), manifest.to_bytes()
    text = io.to_json(
        {"stores": listed[:_REMEMBERED], "manifest_sha256": hashlib.sha256(data).hexdigest()},
        indent=1,
    )
    folder.mkdir(parents=True, exist_ok=True)
    Leases(folder / "claims").sweep()
    io.write_atomic(folder / _MANIFEST, data)
    io.write_atomic(folder / _STORES, text.encode())


def check_room(manifest: Manifest) -> None:
    """Find out before long work whether :func:`remember` will be able to write its note.

    Raises:
        UsageError: the folder cannot be written, or is full.
    """
    folder = _folder(manifest.corpus)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(manifest.to_bytes())
    except OSError as error:
        raise UsageError(
            f"the note of what is extracted cannot be written: {error.strerror}",
            where=error.filename or folder,
            remedy="set SPAMO_HOME to a writable folder with free space",
        ) from None


def pipeline_stores(
    pipeline: Pipeline,
    base: Path,
    *,
    manifest: Path | str | None = None,
    store: str | Path | None = None,
    features: resolve.Assignments = (),
    corpus_sha256: str | None = None,
    watcher: Watcher = QUIET,
) -> tuple[Manifest, dict[str, FeatureStore]]:
    """The clips of a pipeline and the store of each of its streams.

    A store fits if it was computed as the spec says, of the clips that were extracted last, in
    whatever root it lies; without an extraction of one's own, if it has the manifest's clips. One
    that only a remote root holds is first copied into the first local one: every epoch reads it.

    Args:
        base: folder of the pipeline's file.
        manifest: table of the clips; None is what was extracted last.
        store: root to look into before all others.
        features: stores that the user names, stream -> store.
        corpus_sha256: of the clips as stores have it; None is those that were extracted last.

    Raises:
        UsageError: nothing extracted and no manifest, no such stream, or no root holds it.
        StoreError: a store that cannot be opened or copied.
    """
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.roots import locate

    note = _Note.of(pipeline.corpus)
    known = note.there()
    if manifest is not None:
        table = Manifest.read(Path(manifest), corpus=pipeline.corpus)
    elif known:
        table = note.manifest()
    else:
        raise UsageError(
            f"no features of corpus {pipeline.corpus!r} yet",
            remedy=f"run `spamo-cache extract --dataset {pipeline.corpus}` first, or name the "
            "clips by --manifest where others have extracted them",
        )
    roots = [*resolve.store_roots(store), *dict.fromkeys(str(p.parent.parent) for p in known)]
    named = _named(resolve.assignments(features), pipeline.streams)
    if corpus_sha256 is None and known:
        corpus_sha256 = FeatureStore.open(known[0]).attributes["corpus_sha256"]
    look = partial(_found, base=base, manifest=table, known=known, roots=roots)
    opened = {}
    for stream in pipeline.streams:
        if stream in named:
            found = FeatureStore.open(locate(named[stream], roots))
        else:
            found = look(pipeline, stream, corpus_sha256)
        opened[stream] = _near(found, table, roots, watcher)
    return table, opened


def _near(
    store: FeatureStore, manifest: Manifest, roots: Sequence[str], watcher: Watcher
) -> FeatureStore:
    """The store itself, or the copy of a remote one's clips in the first local root, if any."""
    from spamo_cache.store.copy import copy
    from spamo_cache.store.reader import FeatureStore

    local = next((root for root in roots if "://" not in root), None)
    if isinstance(store.path, Path) or local is None:
        return store
    made = f"made by {store.attributes['created_by']}, {store.attributes['created'][:10]}"
    watcher.notice(f"{store.stream}: copying {store.path} ({made}) into {local}")
    # By clip: a store keeps the splits it was begun with, the manifest may have others.
    clips = [clip for clip in manifest.table["id"].to_pylist() if clip in store]
    with watcher.task(f"copying {store.stream}", "partitions") as advance:
        copied = copy(store.path, local, ids=clips, progress=advance)
    if copied.terms:
        watcher.notice(f"terms of use: {copied.terms}")
    return FeatureStore.open(copied.path)


def _found(
    pipeline: Pipeline,
    stream: str,
    keys: str | None,
    *,
    base: Path,
    manifest: Manifest,
    known: Sequence[Location],
    roots: Sequence[str],
) -> FeatureStore:
    from spamo_cache.store.inventory import find
    from spamo_cache.store.layout import stream_spec
    from spamo_cache.store.reader import FeatureStore

    spec, _ = resolve.spec_used(pipeline, base)
    wanted = stream_spec(spec, stream)
    weights = spec.streams[stream].weights
    found = find(roots, pipeline.corpus, stream, spec=wanted, keys_sha256=keys, weights=weights)
    # Of equal ones the local one, that of the last extraction.
    rank = {_place(path): number for number, path in enumerate(known)}
    found.sort(key=lambda path: (not isinstance(path, Path), rank.get(_place(path), len(rank))))
    clips = manifest.table["id"].to_pylist()
    opened = [FeatureStore.open(path) for path in found]
    stores = [store for store in opened if all(clip in store for clip in clips)]
    _same_weights(stream, weights, stores)
    if stores:
        return stores[0]
    raise UsageError(
        f"no store holds stream {stream!r} of these clips of {pipeline.corpus}",
        where=", ".join(dict.fromkeys(roots)),
        remedy=f"run `{_extraction(pipeline, stream)}`",
    )


def _extraction(pipeline: Pipeline, stream: str) -> str:
    changes = [f"--set {shlex.quote(text)}" for text in config.overrides(pipeline.spec_set)]
    words = ["spamo-cache extract --dataset", pipeline.corpus, "--spec", pipeline.spec]
    return " ".join([*words, "--streams", stream, *changes])


def _same_weights(stream: str, weights: str, stores: Sequence[FeatureStore]) -> None:
    """Raise UsageError if weights of one name, but different content, made these stores."""
    if len({store.attributes["weights_sha256"] for store in stores}) > 1:
        raise UsageError(
            f"stream {stream!r}: {len(stores)} stores fit, made with different weights that are "
            f"all called {weights!r}",
            where=", ".join(str(store.path) for store in stores),
            remedy=f"say which one by --features {stream}=STORE, or remove the others by "
            "`spamo-cache store rm`",
        )


def _named(given: Sequence[str], streams: Sequence[str]) -> Mapping[str, str]:
    named = {}
    for text in given:
        stream, sign, store = text.partition("=")
        if not sign or stream not in streams:
            raise UsageError(
                f"--features {text!r} is not of the form STREAM=STORE",
                remedy=f"with a stream of the pipeline: {', '.join(streams)}",
            )
        named[stream] = store
    return named


@dataclass(frozen=True, slots=True)
class _Note:
    """What was extracted last of a corpus, as it was noted below SPAMO_HOME."""

    folder: Path
    stores: Sequence[str]
    manifest_sha256: str

    @classmethod
    def of(cls, corpus: str) -> _Note:
        """The note of a corpus; an empty one where nothing was extracted yet.

        Raises:
            DamagedError: it is not what was written.
        """
        from spamo_cache import io

        folder = _folder(corpus)
        if not (folder / _STORES).is_file():
            return cls(folder, (), "")
        return cls(folder, **io.read_json(folder / _STORES, _AGAIN))

    def there(self) -> list[Location]:
        """Stores that were extracted and are still there, the last ones first."""
        from spamo_cache.store.remote import location

        places = map(location, self.stores)
        return [p for p in places if not isinstance(p, Path) or (p / "zarr.json").is_file()]

    def manifest(self) -> Manifest:
        """The clips that were extracted.

        Raises:
            DamagedError: they are not those that were noted.
        """
        from spamo_cache import io
        from spamo_cache.datasets.manifest import Manifest

        path = self.folder / _MANIFEST
        if io.regular_sha256(path) != self.manifest_sha256:
            raise DamagedError(
                "is not the manifest that was extracted last", where=path, remedy=_AGAIN
            )
        return Manifest.read(path)


def _place(store: Location) -> str:
    return str(store.resolve() if isinstance(store, Path) else store)


def _folder(corpus: str) -> Path:
    return config.home() / "extracted" / corpus
