"""Whether features of others are those of a store, and what the numbers alone say of why not.

Clips are aligned by id, whatever their files are called. Of those that differ some are taken as a
sample, and every relation that is known between features of the same videos is tried on it: what it
leaves unexplained is its error. A relation that has to be fitted is fitted on half of the rows and
judged on the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import gcd
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spamo_cache.store.foreign import OFFICIAL, UNREADABLE, Item
from spamo_cache.store.reader import FeatureStore

Rows = NDArray[np.float64]
"""(rows, width)"""
Verdict = Literal["equal", "near", "different"]

NEAR = 0.01
"""Relative error up to which features are near: rounding, another device, another decoder."""
_SAMPLE_CLIPS, _SAMPLE_ROWS = 24, 4096
_SHIFTS = 16
_RATIO = 8
_FITTED_ROWS = 16
"""Fewer say nothing of a relation that has parameters for every dimension."""
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class ClipComparison:
    """One clip in both.

    Attributes:
        source: its file among the features of others.
        rows: theirs, and the store's.
        cosine: mean over the rows that both have; None where there are none, or of another width.
        error: norm of the difference of these rows, relative to the store's; None likewise.
        reason: why theirs cannot be read, or how it differs beside its numbers.
    """

    clip: str
    source: str
    verdict: Verdict
    rows: tuple[int, int]
    cosine: float | None = None
    error: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A relation that was tried between the features of others and a store's.

    Attributes:
        kind: in one word, as ``stride``.
        what: in a sentence.
        error: what it leaves unexplained, as a relative error.
        cosine: mean over the rows compared.
        rows: how many these are.
    """

    kind: str
    what: str
    error: float
    cosine: float
    rows: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found.

    Attributes:
        features: what was compared.
        store: with which store.
        aligned: how clips found each other -> how many did so.
        clips: those that both have.
        unknown: clips of the features that the store does not have.
        missing: how many of the store's clips the features do not have.
        cause: what explains the differences; None where nothing does, or there are none.
        tried: the relations tried, the best first.
        notes: what else is to be known.
    """

    features: str
    store: str
    aligned: Mapping[str, int]
    clips: Sequence[ClipComparison]
    unknown: Sequence[str] = ()
    missing: int = 0
    cause: Cause | None = None
    tried: Sequence[Cause] = ()
    notes: Sequence[str] = field(default=())

    @property
    def counts(self) -> dict[Verdict, int]:
        """Clips by verdict."""
        found = Counter(clip.verdict for clip in self.clips)
        return {"equal": found["equal"], "near": found["near"], "different": found["different"]}

    @property
    def same(self) -> bool:
        """Whether there are clips in both, and all of them are equal or near."""
        return bool(self.clips) and not self.counts["different"]


# --- which clip is which --------------------------------------------------------------------------

_MEDIA = r"\.(mp4|avi|mkv|mov|webm|npy|npz|pt|pth|pkl|pose)"
_RULES: Mapping[str, Callable[[str], str]] = {
    "id": lambda name: name,
    "last part of the path": lambda name: PurePosixPath(name).name,
    "name without ending": lambda name: re.sub(f"{_MEDIA}$", "", PurePosixPath(name).name),
    "name as the release writes it": lambda name: re.sub(
        f"({'|'.join(OFFICIAL.values())})$", "", re.sub(f"{_MEDIA}$", "", PurePosixPath(name).name)
    ),
}
"""Ways in which clips are renamed, the surest first; each is applied to both sides."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which of the features are which clips.

    Attributes:
        pairs: features and the store's clip.
        rules: how they found each other -> how many did so.
        unknown: features without a clip.
        spare: further features of clips that have some already.
    """

    pairs: Sequence[tuple[Item, str]]
    rules: Mapping[str, int]
    unknown: Sequence[Item]
    spare: int


def align(items: Sequence[Item], clips: Sequence[str], stream: str = "") -> Alignment:
    """Find the clip of each of the features by its name.

    Args:
        items: features of others.
        clips: ids of the store.
        stream: which of the release's files count; those of its other streams are passed over.
    """
    others = [ending for name, ending in OFFICIAL.items() if stream in OFFICIAL and name != stream]
    waiting = [item for item in items if not any(re.search(f"{e}$", item.id) for e in others)]
    pairs: dict[str, Item] = {}
    rules: Counter[str] = Counter()
    spare = 0
    for rule, named in _RULES.items():
        known = _unique({clip: named(clip) for clip in clips})
        left = []
        for item in waiting:
            clip = known.get(named(item.id))
            if clip is None:
                left.append(item)
            elif clip in pairs:
                spare += 1
            else:
                pairs[clip] = item
                rules[rule] += 1
        waiting = left
    rule, found = _by_affix(waiting, [clip for clip in clips if clip not in pairs])
    pairs |= found
    if found:
        rules[rule] = len(found)
        taken = {id(item) for item in found.values()}
        waiting = [item for item in waiting if id(item) not in taken]
    return Alignment([(pairs[clip], clip) for clip in sorted(pairs)], rules, waiting, spare)


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """Name -> clip, of names that only one clip has."""
    counts = Counter(names.values())
    return {name: clip for clip, name in names.items() if counts[name] == 1}


def _by_affix(items: Sequence[Item], clips: Sequence[str]) -> tuple[str, dict[str, Item]]:
    """What stands before and behind all ids of one side, taken off; and which clips match then."""
    known = set(clips)
    best: tuple[str, dict[str, Item]] = ("", {})
    affixes = set()
    for item in items[:20]:
        inside = [clip for clip in clips if clip and clip in item.id]
        around = [clip for clip in clips if item.id and item.id in clip]
        if inside:
            before, _, behind = item.id.partition(max(inside, key=len))
            affixes.add((before, behind, True))
        elif len(around) == 1:
            before, _, behind = around[0].partition(item.id)
            affixes.add((before, behind, False))
    for before, behind, theirs in sorted(affixes):
        if before[-1:].isalnum() or behind[:1].isalnum():
            continue  # a part of a word
        found = {}
        for item in items:
            if not theirs:
                clip = f"{before}{item.id}{behind}"
            elif item.id.startswith(before) and item.id.endswith(behind):
                clip = item.id.removeprefix(before).removesuffix(behind)
            else:
                continue
            if clip in known:
                found[clip] = item
        if len(found) > max(len(best[1]), len(items) // 3):
            shown = " and ".join(repr(affix) for affix in (before, behind) if affix)
            best = (f"id {'without' if theirs else 'with'} {shown}", found)
    return best


# --- figures --------------------------------------------------------------------------------------


def compare_clip(item: Item, clip: str, store: FeatureStore) -> ClipComparison:
    """Figures of one clip.

    Raises:
        StoreError: the store's own features cannot be read.
    """
    ours = store.read([clip])[0]
    try:
        theirs = item.load()
    except UNREADABLE as error:
        reason = f"cannot be read: {error}"
        return ClipComparison(clip, item.source, "different", (0, len(ours)), reason=reason)
    if theirs.ndim != 2 or theirs.dtype.kind not in "fiu" or not np.isfinite(theirs).all():
        reason = f"holds {theirs.dtype} of {theirs.shape}, not finite rows of features"
        return ClipComparison(clip, item.source, "different", (0, len(ours)), reason=reason)
    rows = (len(theirs), len(ours))
    if theirs.shape[1] != ours.shape[1]:
        reason = f"has {theirs.shape[1]} values a row, not {ours.shape[1]}"
        return ClipComparison(clip, item.source, "different", rows, reason=reason)
    count = min(rows)
    apart, cosine = judge([(rows_of(theirs[:count]), rows_of(ours[:count]))])
    verdict: Verdict = "different"
    if rows[0] == rows[1]:
        if _equal(theirs, ours):
            verdict = "equal"
        elif apart <= NEAR:
            verdict = "near"
    if verdict != "different" and (reason := _marked_otherwise(item, clip, store)):
        return ClipComparison(clip, item.source, "different", rows, cosine, apart, reason)
    return ClipComparison(clip, item.source, verdict, rows, cosine, apart)


def _marked_otherwise(item: Item, clip: str, store: FeatureStore) -> str:
    """What is said of equal rows of which others are valid; nothing where the same ones are."""
    (ours,) = store.valid([clip])
    try:
        other = int((item.valid(len(ours)) != ours).sum())
    except UNREADABLE as error:
        return f"cannot be read: {error}"
    return f"{other} of {len(ours)} rows are valid in one and not in the other" if other else ""


def _equal(theirs: NDArray[Any], ours: NDArray[Any]) -> bool:
    """Whether both are the same in the coarser of their types."""
    with np.errstate(over="ignore"):
        rounded = (theirs.astype(ours.dtype) == ours).all()
        return bool(rounded or (ours.astype(theirs.dtype) == theirs).all())


def rows_of(array: NDArray[Any]) -> Rows:
    """An array to reckon with."""
    return array.astype(np.float64)


def judge(pairs: Sequence[tuple[Rows, Rows]]) -> tuple[float, float]:
    """Relative error and mean cosine of first rows against second ones.

    Args:
        pairs: arrays of equal shapes.
    """
    square = whole = cosines = 0.0
    count = 0
    for theirs, ours in pairs:
        square += float(((theirs - ours) ** 2).sum())
        whole += float((ours**2).sum())
        norms = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
        dots = (theirs * ours).sum(axis=1)
        cosines += float(np.divide(dots, norms, out=np.ones_like(dots), where=norms > 0).sum())
        count += len(dots)
    error = (square / whole) ** 0.5 if whole else float(square > 0)
    return error, cosines / count if count else 0.0


def sample(clips: Sequence[ClipComparison]) -> list[ClipComparison]:
    """Clips on which causes are tried: of those that differ most, some at even distances."""
    usable = [clip for clip in clips if min(clip.rows)]
    chosen = [clip for clip in usable if clip.verdict == "different"] or [
        clip for clip in usable if clip.verdict == "near"
    ]
    step = max(1, len(chosen) // _SAMPLE_CLIPS)
    kept: list[ClipComparison] = []
    total = 0
    for clip in chosen[::step][:_SAMPLE_CLIPS]:
        total += max(clip.rows)
        if kept and total > _SAMPLE_ROWS:
            break
        kept.append(clip)
    return kept


# --- relations ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of the same clips, theirs and the store's, and what is known of how these were made.

    Attributes:
        pairs: theirs, ours; of equal widths unless the store has more than one scale.
        unit: what a row stands for.
        stride: frames between two of the store's rows; 0 where that is not known.
        scales: S2 scales whose features stand side by side in a row.
    """

    pairs: Sequence[tuple[Rows, Rows]]
    unit: Literal["frame", "window"] = "frame"
    stride: int = 0
    scales: int = 1

    @classmethod
    def of(cls, pairs: Sequence[tuple[Rows, Rows]], store: FeatureStore) -> Sample:
        """A sample with what the store knows."""
        spec = store.attributes["spec"]
        scales = spec.get("scales") or [1]
        return cls(
            pairs,
            "window" if spec.get("window") else "frame",
            int(spec.get("stride", 0)),
            len(scales),
        )


Related = tuple[str, str, Sequence[tuple[Rows, Rows]]]
"""Kind, sentence, and rows that are equal if the relation holds: what it predicts, and what is."""
_Relation = Callable[[Sample], Iterator[Related]]


def causes(given: Sample) -> list[Cause]:
    """Every relation that could be tried, see :func:`ranked`."""
    tried = []
    for relation in _RELATIONS:
        for kind, what, pairs in relation(given):
            rows = sum(len(theirs) for theirs, _ in pairs)
            if rows:
                tried.append(Cause(kind, what, *judge(pairs), rows))
    return ranked(tried)


def ranked(tried: Sequence[Cause]) -> list[Cause]:
    """The best first; of those that leave no more than rounding, the simplest."""
    least = min((cause.error for cause in tried), default=0.0)
    close = max(2 * least, _ROUNDING)
    return sorted(tried, key=lambda cause: max(cause.error, close))


def explanation(tried: Sequence[Cause], apart: float | None) -> Cause | None:
    """What explains the differences; None where nothing does.

    Args:
        tried: as :func:`ranked` gives them.
        apart: relative error of the sample as it is; None where it has none.
    """
    enough = NEAR if apart is None else min(NEAR, apart / 4)
    return tried[0] if tried and tried[0].error <= enough else None


def _same_width(given: Sample) -> bool:
    return all(theirs.shape[1] == ours.shape[1] for theirs, ours in given.pairs)


def _paired(given: Sample) -> list[tuple[Rows, Rows]]:
    """Clips that have as many rows in both; of others, rows do not stand for the same frames."""
    return [(a, b) for a, b in given.pairs if a.shape == b.shape]


def _precision(given: Sample) -> Iterator[Related]:
    """Rounded numbers: told by what they could be, not by how far they are."""
    pairs = _paired(given)
    if not pairs:
        return
    for name, rounded in (("float16", _as_float16), ("bfloat16", _as_bfloat16)):
        for whose, k in (("theirs", 0), ("the store's", 1)):
            coarse, fine = [pair[k] for pair in pairs], [pair[1 - k] for pair in pairs]
            if all((rounded(rows) == rows).all() for rows in coarse) and not all(
                (rounded(rows) == rows).all() for rows in fine
            ):
                kept = [(rounded(rows), other) for rows, other in zip(fine, coarse, strict=True)]
                yield "precision", f"half precision: {whose} are rounded to {name}", kept


def _as_float16(rows: Rows) -> Rows:
    with np.errstate(over="ignore"):
        return rows.astype(np.float16).astype(np.float64)


def _as_bfloat16(rows: Rows) -> Rows:
    bits = rows.astype(np.float32).view(np.uint32)
    # To the nearest, ties to even.
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def _lengths(given: Sample) -> Iterator[Related]:
    """The same rows, and some more at the end."""
    if not _same_width(given):
        return
    extra = {len(a) - len(b) for a, b in given.pairs}
    if extra == {0}:
        return
    pairs = [(a[: len(b)], b[: len(a)]) for a, b in given.pairs]
    more = "theirs go on" if max(extra) > 0 else "the store's go on"
    if extra <= {0, 1} or extra <= {0, -1}:
        if given.unit == "window":
            whose = "theirs" if max(extra) > 0 else "the store's"
            yield (
                "tail",
                f"tail policy: {whose} have one more window for the frames at the end",
                pairs,
            )
        else:
            yield "length", f"the same rows, but {more} for one more", pairs
    else:
        shown = ", ".join(f"{n:+d}" for n in sorted(extra)[:4])
        yield "length", f"the same rows from the beginning, but {more} ({shown} rows)", pairs


def _shifts(given: Sample) -> Iterator[Related]:
    """Rows that begin later."""
    if not _same_width(given):
        return
    for shift in [k for n in range(1, _SHIFTS + 1) for k in (n, -n)]:
        pairs = []
        for a, b in given.pairs:
            first, second = (a, b[shift:]) if shift > 0 else (a[-shift:], b)
            count = min(len(first), len(second))
            if count >= max(2, len(b) // 2):
                pairs.append((first[:count], second[:count]))
        frames = f" ({abs(shift) * given.stride} frames)" if given.stride > 1 else ""
        unit = f"{given.unit}{'s' if abs(shift) > 1 else ''}"
        when = "later" if shift > 0 else "earlier"
        yield "offset", f"offset: theirs begin {abs(shift)} {unit}{frames} {when}", pairs


def _strides(given: Sample) -> Iterator[Related]:
    """Other distances between rows: those that stand for the same place are compared."""
    if not _same_width(given):
        return
    for theirs, ours in product(range(1, _RATIO + 1), repeat=2):
        if theirs == ours or gcd(theirs, ours) > 1:
            continue
        for offset in range(ours):
            pairs = []
            for a, b in given.pairs:
                first, second = a[::theirs], b[offset::ours]
                count = min(len(first), len(second))
                # As many rows as there would be, not a few that happen to be alike.
                expected = len(b[offset:]) * theirs / ours
                if count >= 2 and abs(len(a) - expected) <= max(2, theirs):
                    pairs.append((first[:count], second[:count]))
            if len(pairs) * 2 > len(given.pairs):
                yield "stride", _stride_words(given, theirs, ours, offset), pairs


def _stride_words(given: Sample, theirs: int, ours: int, offset: int) -> str:
    begin = f", beginning with the store's row {offset}" if offset else ""
    if given.stride and given.stride * ours % theirs == 0:
        every = given.stride * ours // theirs
        frames = "every frame" if every == 1 else f"every {every} frames"
        own = "every frame" if given.stride == 1 else f"every {given.stride}"
        return f"another stride or frame rate: theirs have a row {frames}, the store {own}{begin}"
    of = f"{theirs} row{'s' * (theirs > 1)} of theirs for {ours} of the store's"
    return f"another stride or frame rate: {of}{begin}"


def _orders(given: Sample) -> Iterator[Related]:
    """The same rows in another order, as of frames that were sorted by name: 1, 10, 11, 2."""
    pairs = _paired(given)
    if pairs:
        yield (
            "order",
            "the rows stand in another order",
            [(_sorted(a), _sorted(b)) for a, b in pairs],
        )
        turned = [(a[::-1], b) for a, b in pairs]
        yield "order", "the rows stand in reverse order", turned


def _sorted(rows: Rows) -> Rows:
    return rows[np.argsort(rows.sum(axis=1), kind="stable")]


def _scales_of(given: Sample) -> Iterator[Related]:
    """Scales of S2 in another order, or not all of them."""
    widths = {(a.shape[1], b.shape[1]) for a, b in given.pairs}
    if len(widths) != 1:
        return
    ((theirs, ours),) = widths
    if theirs == ours:
        pairs = _paired(given)
        if given.scales == 2 and pairs:
            swapped = [(np.roll(a, ours // 2, axis=1), b) for a, b in pairs]
            yield "scales", "scales: they stand in another order", swapped
            first = [(a[:, : ours // 2], b[:, : ours // 2]) for a, b in pairs]
            what = "scales: the first is the same, the second is made otherwise"
            yield "scales", f"{what} (of the frame itself, not of the resized one, say)", first
        return
    small, large = min(theirs, ours), max(theirs, ours)
    if large % small:
        return
    for part in range(large // small):
        cut = slice(part * small, (part + 1) * small)
        pairs = [(a[: len(b)], b[: len(a)]) for a, b in given.pairs]
        kept = [(a[:, cut], b) if theirs > ours else (a, b[:, cut]) for a, b in pairs]
        whose = "the store has" if theirs > ours else "theirs are"
        yield "scales", f"scales: {whose} part {part + 1} of {large // small} of a row alone", kept


def _scale(given: Sample) -> Iterator[Related]:
    """One factor for all values; one factor and one shift."""
    pairs = _paired(given)
    if not pairs:
        return
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    factor = float((a * b).sum() / (b * b).sum()) if b.any() else 0.0
    if factor:
        yield "scale", f"scale: theirs are {factor:.4g} times the store's", [(factor * b, a)]
    spread = float(((b - b.mean()) ** 2).sum())
    if spread:
        slope = float(((a - a.mean()) * (b - b.mean())).sum() / spread)
        if slope:
            moved = float(a.mean() - slope * b.mean())
            what = f"scale: theirs are {slope:.4g} times the store's, and {moved:+.4g}"
            yield "scale", what, [(slope * b + moved, a)]


def _normalised(given: Sample) -> Iterator[Related]:
    """Rows of length one."""
    pairs = _paired(given)
    for name, k in (("theirs", 0), ("the store's", 1)):
        lengths = [np.linalg.norm(pair[k], axis=1) for pair in pairs]
        if lengths and all(np.allclose(norms, 1, atol=0.01) for norms in lengths):
            kept = [(_unit(a), _unit(b)) for a, b in pairs]
            yield "scale", f"scale: rows of {name} are divided by their length (L2)", kept


def _unit(rows: Rows) -> Rows:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _centring(given: Sample) -> Iterator[Related]:
    """A mean taken off: that of each clip, or of the corpus."""
    pairs = _paired(given)
    if not pairs:
        return
    clipwise = [(a - a.mean(axis=0), b - b.mean(axis=0)) for a, b in pairs if len(a) > 2]
    flat = all(np.abs(a.mean(axis=0)).max() < 0.05 * a.std() + 1e-9 for a, _ in pairs)
    if clipwise and flat:
        yield "centring", "centring: the mean of each clip is taken off theirs", clipwise
    fitted = _halves(pairs)
    if fitted is not None:
        (a, b), (c, d) = fitted
        shift = (a - b).mean(axis=0)
        what = "centring: each dimension of theirs is shifted by a number of its own"
        yield "centring", what, [(c - shift, d)]
        yield from _affine("scale", "scale: each dimension of theirs is scaled and shifted", fitted)


def _affine(
    kind: str, what: str, fitted: tuple[tuple[Rows, Rows], tuple[Rows, Rows]]
) -> Iterator[Related]:
    """A factor and a shift for every dimension, from the first rows, tried on the others."""
    (a, b), (c, d) = fitted
    spread = b.var(axis=0)
    usable = spread > 1e-12
    slope = np.where(usable, ((a - a.mean(0)) * (b - b.mean(0))).mean(0), 0) / np.where(
        usable, spread, 1
    )
    yield kind, what, [(a.mean(0) + slope * (d - b.mean(0)), c)]


def _halves(
    pairs: Sequence[tuple[Rows, Rows]],
) -> tuple[tuple[Rows, Rows], tuple[Rows, Rows]] | None:
    """Every other row to fit, the others to judge; None where there are too few."""
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    if len(a) < 2 * _FITTED_ROWS:
        return None
    return (a[::2], b[::2]), (a[1::2], b[1::2])


def _layer_norm(given: Sample) -> Iterator[Related]:
    """Before or after the network's last layer norm, whose weights are fitted."""
    pairs = _paired(given)
    fitted = _halves(pairs) if pairs else None
    if fitted is None:
        return
    # Means over crops, which later scales are, have no norm of their own.
    width = pairs[0][0].shape[1] // given.scales
    (a, b), (c, d) = ((first[:, :width], second[:, :width]) for first, second in fitted)
    note = " (judged by the first scale)" if given.scales > 1 else ""
    for what, theirs, ours, held in (
        ("theirs are after the last layer norm, the store's before it", a, b, (c, d)),
        ("theirs are before the last layer norm, the store's after it", b, a, (d, c)),
    ):
        halves = ((theirs, _standard(ours)), (held[0], _standard(held[1])))
        yield from _affine("layer-norm", f"layer norm: {what}{note}", halves)


def _standard(rows: Rows) -> Rows:
    spread = rows.std(axis=1, keepdims=True)
    standard: Rows = (rows - rows.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    return standard


_RELATIONS: Sequence[_Relation] = (
    *(_precision, _lengths, _shifts, _strides, _orders, _scales_of),
    *(_scale, _normalised, _centring, _layer_norm),
)
"""The simplest first."""
