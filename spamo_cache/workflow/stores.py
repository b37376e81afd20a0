"""Which stores a pipeline reads: those of the last extraction, unless the user names others.

And which ones nobody needs any more.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from spamo_cache import config, io
from spamo_cache.config import Pipeline
from spamo_cache.errors import (
    DamagedError,
    MissingStoreError,
    SpamoError,
    StoreError,
    UsageError,
)
from spamo_cache.workflow import DRAWN, resolve
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store.inventory import Spare
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.remote import Location
    from spamo_cache.train import Features

_MANIFEST, _STORES = "manifest.parquet", "stores.json"
_REMEMBERED = 64
_AGAIN = "run `spamo-cache extract` again: it computes nothing twice, and notes it anew"


def remember(
    manifest: Manifest, stores: Iterable[Location], *, table: str = "", root: str = ""
) -> None:
    """Note what was extracted last of a corpus, so that ``train`` needs to be told nothing.

    Args:
        table: file that the manifest was read from; empty where it was none.
        root: folder of the raw corpus.
    """
    from spamo_cache.store.leases import Leases

    try:
        before = _Note.of(manifest.corpus).there()
    except DamagedError:
        before = []
    listed = list(dict.fromkeys(map(_place, [*stores, *before])))
    folder, data = _folder(manifest.corpus), manifest.to_bytes()
    text = io.to_json(
        {
            "stores": listed[:_REMEMBERED],
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
            "table": table,
            "root": root,
        },
        indent=1,
    )
    io.make_folders(folder)
    Leases(folder / "claims").sweep()
    io.write_atomic(folder / _MANIFEST, data)
    io.write_atomic(folder / _STORES, text.encode())


def at_hand(corpus: str, root: Path | str | None) -> Path | None:
    """The folder of a corpus, None where it is not known.

    Without ``root`` it is a bundled corpus's, if that is drawn already, and of another one where
    it was extracted from last.

    Raises:
        UsageError: no such folder.
    """
    if root is not None:
        return resolve.folder(root)
    if corpus in DRAWN:
        there = resolve.is_there(corpus, None, None)
        return resolve.corpus_root(corpus, None) if there else None
    try:
        noted = _Note.of(corpus).root
    except DamagedError:
        return None
    return Path(noted) if noted and Path(noted).is_dir() else None


def extracted(corpus: str) -> list[Location]:
    """Stores of a corpus that are there, those of the last extraction first."""
    try:
        return _Note.of(corpus).there()
    except DamagedError:
        return []


def remembered(corpus: str) -> Manifest | None:
    """The clips of a corpus that were extracted last; None where none were.

    Raises:
        DamagedError: the note of it is not what was written.
    """
    note = _Note.of(corpus)
    return note.manifest() if note.stores else None


def report_changes(manifest: Manifest, watcher: Watcher) -> None:
    """Say how a manifest differs from the one that was extracted last under its name."""
    try:
        note = _Note.of(manifest.corpus)
        before = note.manifest() if note.stores else manifest
    except (DamagedError, OSError):
        return  # whose remedy is this extraction
    if before.table.equals(manifest.table):
        return
    old, new = ({clip.id: clip for clip in one.clips()} for one in (before, manifest))
    both = old.keys() & new.keys()
    if not both:
        watcher.warning(
            f"corpus {manifest.corpus}: none of these {len(new):,} clips is among the {len(old):,} "
            "that were extracted under this name before; if this is another corpus, give it "
            "another name by --dataset NAME"
        )
        return
    counts = {
        "new": len(new) - len(both),
        "left out": len(old) - len(both),
        "changed": sum(old[clip] != new[clip] for clip in both),
    }
    if counted := ", ".join(f"{count:,} {word}" for word, count in counts.items() if count):
        watcher.notice(f"corpus {manifest.corpus}, clips since the last extraction: {counted}")


def check_room(manifest: Manifest) -> None:
    """Find out before long work whether :func:`remember` will be able to write its note.

    Raises:
        UsageError: the folder cannot be written, or is full.
    """
    folder = _folder(manifest.corpus)
    try:
        io.make_folders(folder)
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
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.roots import locate

    note = _Note.of(pipeline.corpus)
    known = note.there()
    if manifest is not None:
        table = _table(Path(manifest), pipeline)
    elif known:
        table = note.manifest()
    else:
        raise UsageError(
            f"no features of corpus {pipeline.corpus!r} yet",
            remedy=f"run `{_extraction(pipeline, base, note)}` first, or name the "
            "clips by --manifest where others have extracted them",
        )
    roots = [*resolve.store_roots(store), *dict.fromkeys(str(p.parent.parent) for p in known)]
    named = _named(resolve.assignments(features), pipeline.streams)
    if corpus_sha256 is None and known:
        corpus_sha256 = FeatureStore.open(known[0]).attributes["corpus_sha256"]
    look = partial(_found, base=base, manifest=table, note=note, roots=roots)
    opened = {}
    for stream in pipeline.streams:
        if stream in named:
            found = FeatureStore.open(locate(named[stream], roots))
        else:
            found = look(pipeline, stream, corpus_sha256)
            if manifest is not None:
                _check_clips(found, table, Path(manifest))
        opened[stream] = _near(found, table, roots, watcher)
    return table, opened


def with_corpora(
    pipeline: Pipeline,
    base: Path,
    manifest: Manifest,
    stores: Mapping[str, Features],
    *,
    store: str | Path | None = None,
    watcher: Watcher = QUIET,
) -> tuple[Manifest, Mapping[str, Features]]:
    """The clips and features of a pipeline with those of the other corpora that it trains on.

    Of these, what was extracted last is taken. A pipeline on one corpus gets back what it gave.

    Args:
        base: folder of the pipeline's file.
        manifest: clips of the pipeline's own corpus.
        stores: stream -> its features.
        store: root to look into before all others.

    Raises:
        UsageError: nothing was extracted of a corpus, or it has no training clips.
        StoreError: the weights behind a stream differ between corpora, or a store cannot be opened.
    """
    from spamo_cache.datasets.mixture import mixed
    from spamo_cache.train.features import MixedFeatures, about, unlike

    found = {}
    for name in pipeline.others:
        alone = pipeline.model_copy(update={"corpus": name, "corpora": ()})
        note = _Note.of(name)
        if not note.there():
            raise UsageError(
                f"no features of corpus {name!r} yet, which is to be trained on",
                remedy=f"run `{_extraction(alone, base, note)}` first, or leave it out",
            )
        found[name] = pipeline_stores(alone, base, store=store, watcher=watcher)
    if not found:
        return manifest, stores
    joined = {}
    for stream, own in stores.items():
        others = {name: opened[stream] for name, (_, opened) in found.items()}
        for name, other in others.items():
            if odd := unlike(about(own), other.about):
                raise StoreError(
                    f"stream {stream!r} of {name} differs from that of {pipeline.corpus} in "
                    f"{', '.join(odd)}",
                    where=other.path,
                    remedy="extract both corpora by one spec with the same weights",
                )
        joined[stream] = MixedFeatures(own, others)
    tables = {name: table for name, (table, _) in found.items()}
    return mixed(manifest, tables, pipeline.corpora), joined


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
    with watcher.task("copy", store.path.stem, "partitions") as advance:
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
    note: _Note,
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
    rank = {_place(path): number for number, path in enumerate(note.there())}
    found.sort(key=lambda path: (not isinstance(path, Path), rank.get(_place(path), len(rank))))
    clips = manifest.table["id"].to_pylist()
    opened = [FeatureStore.open(path) for path in found]
    stores = [store for store in opened if all(clip in store for clip in clips)]
    if spec.streams[stream].uses_poses:
        stores = by_poses(stores, spec.poses)
    # One of which a part was pulled is completed from where the rest is.
    stores.sort(key=lambda store: _lacking(store, clips))
    _same_weights(stream, weights, stores)
    if stores:
        return stores[0]
    raise UsageError(
        f"no store holds stream {stream!r} of these clips of {pipeline.corpus}",
        where=", ".join(dict.fromkeys(roots)),
        remedy=f"run `{_extraction(pipeline, base, note, stream)}`",
    )


def by_poses(stores: list[FeatureStore], folder: str) -> list[FeatureStore]:
    """Those made by the poses of a folder; all where it is the usual one and none names it."""
    usual = config.CacheSpec.model_fields["poses"].default
    named = [store for store in stores if store.about.poses == folder]
    return named or (stores if folder == usual else [])


def _lacking(store: FeatureStore, clips: Sequence[str]) -> int:
    """How many of these clips nobody has computed there."""
    from spamo_cache.store.index import ABSENT

    return int((store.index.state[store.ids.positions(clips)] == ABSENT).sum())


def _extraction(pipeline: Pipeline, base: Path, note: _Note, stream: str | None = None) -> str:
    """The command that extracts what a pipeline reads; of all its streams where none is named."""
    from spamo_cache.datasets import registry

    corpus, spec = pipeline.corpus, pipeline.spec
    words = ["spamo-cache", "extract", "--dataset", corpus]
    if corpus not in registry.CORPORA or note.table:
        words += ["--manifest", note.table or "FILE"]
        words += (
            ["--root", note.root] if note.root not in {"", str(Path(note.table).parent)} else []
        )
    elif corpus not in DRAWN:
        words += ["--root", note.root or "DIR"]
    if stream is not None or spec != resolve.spec_of(corpus):
        words += ["--spec", str(base / spec) if (base / spec).is_file() else spec]
    words += [] if stream is None else ["--streams", stream]
    for change in config.overrides(pipeline.spec_set):
        words += ["--set", change]
    return shlex.join(words)


@contextmanager
def missing_explained(folder: Path) -> Iterator[None]:
    """Where no root holds a store of a run any more, say by which command it is made again.

    Args:
        folder: of the run.

    Raises:
        MissingStoreError: in place of what was raised.
    """
    from spamo_cache.runs.folder import RunFolder

    try:
        yield
    except MissingStoreError as error:
        run = RunFolder(folder)
        pipeline, base = run.pipeline(), Path(run.read_about().base)
        try:
            note = _Note.of(pipeline.corpus)
        except DamagedError:
            note = _Note(_folder(pipeline.corpus), (), "")
        raise MissingStoreError(
            error.what,
            where=error.where,
            remedy="name the root that holds it by --store ROOT or in SPAMO_CACHE, or make it "
            f"again by `{_extraction(pipeline, base, note)}`",
        ) from None


def _init(file: Path | str) -> str:
    return shlex.join(["spamo-cache", "init", "NAME", "--manifest", str(file)])


def _table(file: Path, pipeline: Pipeline) -> Manifest:
    """The clips of a table, which are the pipeline's corpus's.

    Raises:
        UsageError: the table says that it describes another corpus; or it says nothing, and the
            pipeline is the bundled corpus's.
    """
    from spamo_cache.datasets.manifest import Manifest

    try:
        table = Manifest.read(file)
    except UsageError:  # it does not say which corpus it describes
        if pipeline.corpus in DRAWN:
            raise UsageError(
                f"the pipeline is that of {pipeline.corpus}, which this table does not describe",
                where=file,
                remedy=f"write a pipeline for your corpus by `{_init(file)}`, and train that",
            ) from None
        return Manifest.read(file, corpus=pipeline.corpus)
    if table.corpus != pipeline.corpus:
        raise UsageError(
            f"is the manifest of corpus {table.corpus!r}, and the pipeline is for "
            f"{pipeline.corpus!r}",
            where=file,
            remedy=f"take a pipeline whose `corpus:` is {table.corpus}, or change it by "
            f"--set corpus={table.corpus}",
        )
    return table


def _check_clips(store: FeatureStore, manifest: Manifest, file: Path) -> None:
    """Raise UsageError unless a store's clips are the manifest's: two may be called alike."""
    keys = {key.id: key for key in store.clip_keys()}
    for clip in manifest.clips():
        key = keys.get(clip.id)
        if key is not None and (key.source, key.start, key.end, key.crop) != (
            clip.source, clip.start, clip.end, clip.crop
        ):  # fmt: skip
            raise UsageError(
                f"clip {clip.id!r} is another one than in the store of stream {store.stream!r}: "
                f"{clip.source}, not {key.source}",
                where=file,
                remedy=f"extract these clips; if they are another corpus than {manifest.corpus}, "
                "under a name of their own (extract --dataset NAME, `corpus: NAME` in the "
                "pipeline)",
            )


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
                f"--features {text!r} is not STREAM=STORE with a stream of the pipeline",
                remedy=f"its streams are {', '.join(streams)}",
            )
        named[stream] = store
    return named


def spare_stores(root: str | None = None) -> list[Spare]:
    """Superseded and unfinished stores of a root; those that runs below ``runs/`` need are kept.

    Args:
        root: None is the one that features are written to.

    Raises:
        UsageError: a root that is not on a local disk.
    """
    from spamo_cache.runs.folder import RunFolder
    from spamo_cache.store import inventory

    used = {}
    for run in resolve.runs_here():
        with suppress(SpamoError):
            about = RunFolder(run).read_about()
            read = [about.fingerprints, *(one.fingerprints for one in about.corpora.values())]
            for fingerprints in read:
                used.update(dict.fromkeys(fingerprints.values(), f"{run} was trained from it"))
    return inventory.spare_stores(str(resolve.store_root(root)), used)


def prune_stores(root: str | Path | None = None, *, dry_run: bool = False) -> list[Spare]:
    """Remove the superseded and unfinished stores of a root.

    Stores that somebody is at work on stay, and so do those that a run below ``runs/`` needs.

    Args:
        root: None is the one that features are written to.
        dry_run: remove nothing.

    Returns:
        What went, or would go, and with its reason (``kept``) what stays.

    Raises:
        UsageError: a root that is not on a local disk.
    """
    found = spare_stores(None if root is None else str(root))
    return found if dry_run else remove_spare(found)


def remove_spare(found: Iterable[Spare]) -> list[Spare]:
    """Remove those that can go; each with the reason why it stayed all the same."""
    from spamo_cache.store import inventory

    done = []
    for spare in found:
        kept = spare.kept
        if kept is None:
            try:
                inventory.remove(spare.entry.path)
            except StoreError as error:
                kept = error.what
        done.append(replace(spare, kept=kept))
    return done


@dataclass(frozen=True, slots=True)
class _Note:
    """What was extracted last of a corpus, as it was noted below SPAMO_HOME."""

    folder: Path
    stores: Sequence[str]
    manifest_sha256: str
    table: str = ""
    root: str = ""

    @classmethod
    def of(cls, corpus: str) -> _Note:
        """The note of a corpus; an empty one where nothing was extracted yet.

        Raises:
            DamagedError: it is not what was written.
        """
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
