"""What is in a store: all that is known of one, where a row comes from, why two differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spamo_cache import human
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.store.attributes import origin_of
from spamo_cache.store.index import OK, STATES, State
from spamo_cache.store.inventory import entry_of, size_of
from spamo_cache.store.layout import ClipKey, first_start
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import finished
from spamo_cache.store.remote import Location

_NEAR = 5000
"""Neighbours in the order of ids among which a misspelt one is looked for."""
_SHOWN = 3
_CHANGES = {
    "source": "from another file",
    "size": "with a source of another size",
    "start": "with another start",
    "end": "with another end",
    "crop": "cropped otherwise",
    "pose": "with another pose",
}


# --- one store ------------------------------------------------------------------------------------


def info(path: Location) -> dict[str, Any]:
    """All that is known of a store: its attributes, what :class:`StoreEntry` has, and more.

    Returns:
        ``origin``: see :func:`attributes.origin_of`; ``splits``: split -> clips by state, rows that
        they have and, in a store with validity, the share of them that is ``valid`` (0..1, None
        where there are no rows); ``partitions_done``; ``made_by``: who computed how many of them,
        on what; ``failures``: clip -> reason.
    """
    store = FeatureStore.open(path)
    entry = asdict(entry_of(store, str(path.parent.parent), size_of(path)))
    del entry["damaged"]
    receipts = list(finished(path, store.about, store.index.finished_partitions()))
    state, reasons = store.progress()
    return {
        **store.attributes,
        **entry,
        "path": str(path),
        "origin": origin_of(path),
        "splits": _splits(store, state),
        "partitions_done": len(receipts),
        "made_by": _made(receipt.provenance for receipt in receipts),
        "failures": {store.ids[position]: reasons[position] for position in sorted(reasons)},
    }


def _splits(store: FeatureStore, state: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """Split -> clips by state, the rows of those that have features, and what of these is valid."""
    index, shares = store.index, store.valid_shares()
    found: dict[str, dict[str, Any]] = {}
    for code, split in enumerate(index.splits):
        inside = index.split == code
        counts = np.bincount(state[inside], minlength=len(STATES)).tolist()
        rows = int(index.rows[inside & (state == OK)].sum())
        found[split] = {**dict(zip(STATES, counts, strict=True)), "rows": rows}
        if store.has_validity:
            found[split]["valid"] = shares.get(split)
    return found


class ClipLine(NamedTuple):
    """What is listed of one clip.

    Attributes:
        rows: of features, planned or there; of a failed clip those it would have had.
        reason: why it failed, else empty.
    """

    id: str
    split: str
    rows: int
    state: State
    reason: str


def clip_lines(store: FeatureStore) -> Iterator[ClipLine]:
    """Every clip of a store in order of ids, by the way: a million take no memory to speak of."""
    index, (state, reasons) = store.index, store.progress()
    for position, clip in enumerate(index.ids):
        yield ClipLine(
            clip,
            index.splits[index.split[position]],
            int(index.rows[position]),
            STATES[state[position]],
            reasons.get(position, ""),
        )


def _made(provenances: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who made partitions, where and on what, with the number and the time of the last."""
    last: dict[tuple[str, ...], str] = {}
    counts: dict[tuple[str, ...], int] = {}
    for made in provenances:
        who = tuple(str(made[key]) for key in ("user", "host", "device") if key in made)
        counts[who] = counts.get(who, 0) + 1
        last[who] = max(last.get(who, ""), str(made.get("published", "")))
    return [
        f"{' on '.join(who)}: {counts[who]:,} partition{'s' * (counts[who] > 1)}, the last at "
        f"{last[who]}"
        for who in sorted(counts)
    ]


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """All that is known of one clip.

    Attributes:
        rows: see :class:`ClipLine`.
        frames: of the clip; 0 where the store does not know.
        first: number of the first of them within the source, from 0.
        source: POSIX path relative to the corpus root.
        size: bytes of the source when it was extracted.
        start, end: its range in seconds; None is the source's own beginning or end.
        crop: x0, y0, x1, y1 as shares of 0..1.
        partition: whose shard and receipt hold it.
    """

    clip: str
    split: str
    state: State
    reason: str | None
    rows: int
    frames: int
    first: int
    source: str
    size: int
    start: float | None
    end: float | None
    crop: tuple[float, float, float, float] | None
    partition: int


def clip_info(store: FeatureStore, clip: str) -> ClipInfo:
    """What a store knows of one clip.

    Raises:
        UsageError: it has no such clip.
    """
    _check_clip(store, clip)
    slot, key = store.slot(clip), store.clip_key(clip)
    state, reasons = store.progress()
    position = int(store.ids.positions([clip])[0])
    return ClipInfo(
        clip,
        slot.split,
        STATES[state[position]],
        reasons.get(position),
        slot.rows,
        slot.frames,
        slot.first,
        key.source,
        key.size,
        key.start,
        key.end,
        key.crop,
        slot.partition,
    )


def _check_clip(store: FeatureStore, clip: str) -> None:
    if clip not in store:
        hint = f"nearest is {_nearest(store, clip)!r}"
        raise UsageError(f"no clip {clip!r} in this store", where=store.path, remedy=hint)


# --- one row --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trace:
    """Where one row comes from.

    Attributes:
        source: POSIX path relative to the corpus root.
        size: bytes of the source when it was extracted.
        start, end: the clip's range in seconds; None is the source's own beginning or end.
        frames: of the clip; 0 where the store does not know.
        first, last: the row's first and last frame, numbered from 0 within the source in order of
            presentation, both included; None where the store does not know (imports).
        repeated: how many of the row's window are the last frame once more, for want of others.
        valid: whether the row shows what its stream is about; None where the store does not say.
    """

    clip: str
    row: int
    rows: int
    source: str
    size: int
    start: float | None
    end: float | None
    frames: int
    first: int | None = None
    last: int | None = None
    repeated: int = 0
    valid: bool | None = None


def trace(store: FeatureStore, clip: str, row: int) -> Trace:
    """The source and the frames of one row.

    Args:
        row: number of the row within the clip, from 0.

    Raises:
        UsageError: the store has no such clip, or the clip no such row.
        StoreError: a clip without features.
        DamagedError: a plan that cannot be.
    """
    _check_clip(store, clip)
    rows = int(store.lengths([clip])[0])
    if not 0 <= row < rows:
        what = f"clip {clip!r} has no row {row}"
        raise UsageError(what, where=store.path, remedy=f"choose one of 0 to {rows - 1}")
    slot, key = store.slot(clip), store.clip_key(clip)
    valid = bool(store.valid([clip])[0][row]) if store.has_validity else None
    place = key.source, key.size, key.start, key.end, slot.frames
    known = Trace(clip, row, rows, *place, valid=valid)
    spec = store.attributes["spec"]
    span, stride, phase = spec.get("window") or 1, spec.get("stride"), spec.get("phase", 0)
    if not (slot.frames and all(isinstance(part, int) for part in (span, stride, phase))):
        return known
    begin = first_start(slot.frames, span, phase) + row * stride
    end = min(begin + span, slot.frames)
    if not 0 <= begin < end:
        raise DamagedError(f"clip {clip!r} has no frames under row {row}", where=store.path)
    first, last = slot.first + begin, slot.first + end - 1
    return replace(known, first=first, last=last, repeated=begin + span - end)


def _nearest(store: FeatureStore, clip: str) -> str:
    ids = store.ids
    at = int(np.searchsorted(ids.raw, clip.encode("utf-8", "surrogatepass")))
    near = ids[max(0, at - _NEAR) : at + _NEAR]
    return difflib.get_close_matches(clip, near, n=1, cutoff=0.0)[0]


# --- two stores -----------------------------------------------------------------------------------


def diff(first: Location, second: Location) -> list[str]:
    """Why two stores are not the same, a sentence each; empty where they are.

    Raises:
        StoreError: one of them cannot be opened.
    """
    a, b = FeatureStore.open(first), FeatureStore.open(second)
    return [*_stream_differences(a, b), *_corpus_differences(a, b), *_feature_differences(a, b)]


def _stream_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    about_a, about_b = a.attributes, b.attributes
    for name in ("corpus", "stream", "width", "dtype", "chunk_rows", "shard_rows"):
        if about_a[name] != about_b[name]:
            yield f"{name} {about_a[name]} against {about_b[name]}"
    spec_a, spec_b = about_a["spec"], about_b["spec"]
    for key in sorted((spec_a.keys() | spec_b.keys()) - {"dtype", "chunk_rows", "shard_rows"}):
        if spec_a.get(key) != spec_b.get(key):
            yield f"{key} {_word(spec_a.get(key))} against {_word(spec_b.get(key))}"
    if about_a["weights_sha256"] != about_b["weights_sha256"]:
        yield f"other weights: {_weights(about_a)} against {_weights(about_b)}"
    if about_a["semantics"] != about_b["semantics"]:
        yield (
            "computed by versions of spamo-cache that mean different things by the same spec:"
            f" semantics {about_a['semantics']} against {about_b['semantics']}"
        )


def _word(value: object) -> object:
    return "nothing" if value is None else value


def _weights(about: Mapping[str, Any]) -> str:
    return f"{about['weights']} ({about['weights_sha256'][:12]})"


def _corpus_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    versions = a.attributes["manifest_sha256"], b.attributes["manifest_sha256"]
    if all(versions) and versions[0] != versions[1]:
        yield "made from different versions of the manifest: its sentences may differ, too"
    corpora = ((one.about.corpus_sha256, one.about.poses_sha256) for one in (a, b))
    if len(set(corpora)) == 1:
        return
    keys_a = {key.id: key for key in a.clip_keys()}
    keys_b = {key.id: key for key in b.clip_keys()}
    yield from _only("", keys_a.keys(), keys_b.keys())
    both = sorted(keys_a.keys() & keys_b.keys())
    for name, words in _CHANGES.items():
        changed = [clip for clip in both if _differ(keys_a[clip], keys_b[clip], name)]
        if changed:
            yield f"{human.count(len(changed), 'clip')} {words}: {_some(changed)}"


def _differ(a: ClipKey, b: ClipKey, name: str) -> bool:
    return bool(getattr(a, name) != getattr(b, name))


def _feature_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    split_a, split_b = ({slot.id: slot.split for slot in store.slots()} for store in (a, b))
    both = split_a.keys() & split_b.keys()
    moved = [clip for clip in both if split_a[clip] != split_b[clip]]
    if moved:
        yield f"{human.count(len(moved), 'clip')} in another split: {_some(moved)}"
    states: tuple[State, ...] = ("failed", "absent")
    for state in states:
        yield from _only(
            f" {state}", both & set(a.select(state=state)), both & set(b.select(state=state))
        )
    sums_a, sums_b = a.checksums(), b.checksums()
    other = [clip for clip in sums_a.keys() & sums_b.keys() if sums_a[clip] != sums_b[clip]]
    if other:
        yield f"{human.count(len(other), 'clip')} with other features: {_some(other)}"
    if a.has_validity or b.has_validity:
        equal = sorted((sums_a.keys() & sums_b.keys()) - set(other))
        pairs = zip(equal, _valid(a, equal), _valid(b, equal), strict=True)
        marked = [clip for clip, one, two in pairs if one != two]
        if marked:
            yield f"{human.count(len(marked), 'clip')} with other valid rows: {_some(marked)}"


def _valid(store: FeatureStore, clips: Sequence[str]) -> list[list[bool]]:
    return [valid.tolist() for valid in store.valid(clips)]


def _only(what: str, first: Iterable[str], second: Iterable[str]) -> Iterator[str]:
    here, there = set(first), set(second)
    for clips, where in ((here - there, "first"), (there - here, "second")):
        if clips:
            yield f"{human.count(len(clips), 'clip')}{what} only in the {where}: {_some(clips)}"


def _some(clips: Iterable[str]) -> str:
    names = sorted(clips)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
