"""What stores there are, what is in one, how two differ, and removing one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store import files
from spamo_cache.store.claims import Claims
from spamo_cache.store.layout import ClipKey, work_path
from spamo_cache.store.plan import State
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import Receipts
from spamo_cache.store.records import Attributes

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list of stores.

    Attributes:
        root: the root it was found in.
        clips: number of clips by state.
        bytes: bytes on disk.
        created: UTC, ISO 8601.
        owner: who created it.
        damaged: why it cannot be opened; the fields before are empty then.
    """

    root: str
    path: Path
    corpus: str
    stream: str
    fingerprint: str
    clips: Mapping[State, int]
    bytes: int
    created: str
    owner: str
    damaged: str | None = None


def stores(roots: Iterable[str]) -> list[Entry]:
    """Every store of the local roots, in their order; remote and missing roots are passed over."""
    found: list[Entry] = []
    for root in roots:
        if "://" not in root:
            paths = Path(root).expanduser().glob("*/*.zarr")
            found += [_entry(root, path) for path in sorted(paths)]
    return found


def _entry(root: str, path: Path) -> Entry:
    size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    try:
        store = FeatureStore.open(path)
    except StoreError as error:
        corpus, stream = path.parent.name, path.stem.rpartition("-")[0]
        return Entry(root, path, corpus, stream, "", {}, size, "", "", damaged=error.what)
    about = store.attributes
    return Entry(
        root,
        path,
        store.corpus,
        store.stream,
        store.fingerprint,
        store.counts(),
        size,
        about["created"],
        about["created_by"],
    )


def locate(name: str, roots: Iterable[str]) -> Path:
    """The one store meant by a path or by ``corpus/stream``, with or without ``-fingerprint``.

    Raises:
        UsageError: none, or several.
    """
    if Path(name).suffix == ".zarr" and Path(name).is_dir():
        return Path(name)
    wanted = name.removesuffix(".zarr")
    found: list[Path] = []
    for entry in stores(roots):
        full = f"{entry.path.parent.name}/{entry.path.stem}"
        if wanted == full.rpartition("-")[0] or ("-" in wanted and full.startswith(wanted)):
            found.append(entry.path)
    if len({path.name for path in found}) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no store {name!r}", remedy="`spamo-cache store ls` shows them all")
    shown = ", ".join(f"{path.parent.name}/{path.stem}" for path in found)
    raise UsageError(f"{name!r} may be several stores", remedy=f"one of: {shown}")


def info(path: Path) -> dict[str, Any]:
    """All that is known of a store: its attributes, counts, sizes, who is at work on it."""
    store = FeatureStore.open(path)
    about = Attributes.model_validate(store.attributes)
    receipts = list(Receipts(path, about))
    live = Claims(work_path(path) / "claims").live()
    return {
        **store.attributes,
        "path": str(path),
        "states": store.counts(),
        "splits": {split: len(store.select(split=split)) for split in store.splits},
        "bytes": sum(receipt.shard.size for receipt in receipts if receipt.shard),
        "partitions_done": len(receipts),
        "made_on": sorted({str(receipt.provenance.get("host")) for receipt in receipts}),
        "failures": {clip: store.reason(clip) for clip in store.select(state="failed")},
        "at_work": {name: str(holder) for name, holder in live.items()},
    }


def remove(path: Path) -> None:
    """Remove a store.

    Raises:
        StoreError: somebody is at work on it, or the root is not writable.
        UsageError: no store.
    """
    if path.suffix != ".zarr" or not (path / "zarr.json").is_file():
        raise UsageError("no feature store here", where=path)
    work = work_path(path)
    live = Claims(work / "claims").live()
    if live:
        holder = next(iter(live.values()))
        raise StoreError(f"is being written by {holder}", where=path, remedy="wait, or stop it")
    with files.writing(path):
        work.mkdir(parents=True, exist_ok=True)
        # Gone under its name at once; what takes time happens aside.
        path.rename(files.temporary(work))
        files.remove(work)


# --- differences --------------------------------------------------------------------------------


def diff(first: Path, second: Path) -> list[str]:
    """Why two stores are not the same, a sentence each; empty where they are.

    Raises:
        StoreError: one of them cannot be opened.
    """
    a, b = FeatureStore.open(first), FeatureStore.open(second)
    return [*_stream_differences(a, b), *_corpus_differences(a, b), *_feature_differences(a, b)]


def _stream_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    for name in ("corpus", "stream", "width", "dtype", "chunk_rows", "shard_rows"):
        if a.attributes[name] != b.attributes[name]:
            yield f"{name} {a.attributes[name]} against {b.attributes[name]}"
    spec_a, spec_b = a.attributes["spec"], b.attributes["spec"]
    for key in sorted((spec_a.keys() | spec_b.keys()) - {"dtype", "chunk_rows", "shard_rows"}):
        if spec_a.get(key) != spec_b.get(key):
            yield f"{key} {_word(spec_a.get(key))} against {_word(spec_b.get(key))}"
    if a.attributes["weights_sha256"] != b.attributes["weights_sha256"]:
        names = a.attributes["weights"], b.attributes["weights"]
        same = "other contents under the same name" if names[0] == names[1] else names[1]
        yield f"other weights: {names[0]} against {same}"
    if a.attributes["semantics"] != b.attributes["semantics"]:
        yield "computed by versions of spamo-cache that mean different things by the same spec"


def _word(value: object) -> object:
    return "nothing" if value is None else value


def _corpus_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    keys_a = {key.id: key for key in a.clip_keys()}
    keys_b = {key.id: key for key in b.clip_keys()}
    for clips, where in (
        (keys_a.keys() - keys_b.keys(), "first"),
        (keys_b.keys() - keys_a.keys(), "second"),
    ):
        if clips:
            yield f"{len(clips)} clips only in the {where}: {_some(clips)}"
    both = sorted(keys_a.keys() & keys_b.keys())
    for name, words in {
        "source": "come from another file",
        "size": "have a source of another size",
        "start": "start at another time",
        "end": "end at another time",
        "crop": "are cropped otherwise",
    }.items():
        changed = [clip for clip in both if _differ(keys_a[clip], keys_b[clip], name)]
        if changed:
            yield f"{len(changed)} clips {words}: {_some(changed)}"


def _differ(a: ClipKey, b: ClipKey, name: str) -> bool:
    return bool(getattr(a, name) != getattr(b, name))


def _feature_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    states: tuple[State, ...] = ("failed", "absent")
    for state in states:
        there, here = set(a.select(state=state)), set(b.select(state=state))
        for clips, where in ((there - here, "first"), (here - there, "second")):
            known = {clip for clip in clips if clip in a and clip in b}
            if known:
                yield f"{len(known)} clips {state} only in the {where}: {_some(known)}"
    sums_a, sums_b = a.checksums(), b.checksums()
    other = [clip for clip in sums_a.keys() & sums_b.keys() if sums_a[clip] != sums_b[clip]]
    if other:
        yield f"{len(other)} clips have other features: {_some(other)}"


def _some(clips: Iterable[str]) -> str:
    names = sorted(clips)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
