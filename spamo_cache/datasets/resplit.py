"""Splits drawn anew, so that train and test share no signer, or no sentence.

Clips keep everything but their split: features that were computed of the old manifest are read for
the new ones as they lie.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from spamo_cache import human
from spamo_cache.datasets.manifest import DEV_SPLITS, Clip, Manifest
from spamo_cache.datasets.overlap import gist, shown, video
from spamo_cache.errors import UsageError

SENTENCE = "sentence"
"""In place of a column: the text, whatever its case and punctuation."""
HELD_OUT = "held-out"
"""The split of what is in no fold."""

Gaps = Literal["refuse", "train"]

_SHARE = 0.1
"""Of the clips, for dev and test of a corpus that has none yet."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Clips that belong on one side, by their numbers.

    Attributes:
        rank: between 0 and 1, by the seed.
        values: what they have in the column that is split by.
    """

    clips: tuple[int, ...]
    rank: float
    values: frozenset[Hashable]


def resplit(
    manifest: Manifest,
    by: str,
    *,
    folds: int | None = None,
    hold_out: int | None = None,
    seed: int = 0,
    gaps: Gaps = "refuse",
) -> list[Manifest]:
    """Split a corpus anew into train, dev and test that share no value of a column.

    Clips of one video whose times overlap stay on one side too. Sizes are balanced as far as the
    values allow; the same seed gives the same splits everywhere.

    Args:
        manifest: the clips; their present splits count for the sizes of the new ones alone.
        by: ``signer`` or another column, or ``sentence`` (whatever case and punctuation).
        folds: how many manifests to make; each clip is test in one of them. None makes one, with
            dev and test about as large as they are now (a tenth where there are none).
        hold_out: number of values (signers, sentences) to set aside: as the test of a single
            split, or with ``folds`` as a split ``held-out`` that no fold trains or tests on.
        seed: of the draw.
        gaps: what becomes of clips without a value: ``refuse`` raises an error, ``train`` keeps
            them in training, in every fold.

    Returns:
        A manifest per fold, or one; ``resplit`` and ``notes`` of each say what it is.

    Raises:
        UsageError: an unknown column, clips without a value, too few values for a train, dev and
            test in each fold.
    """
    _check(folds, hold_out)
    clips = manifest.clips()
    values = [gist(clip.text) for clip in clips] if by == SENTENCE else manifest.values(by)
    notes = _gap_notes(values, by, gaps)
    units = sorted(_units(clips, values, seed), key=_weight, reverse=True)
    free = [unit for unit in units if not unit.values]
    named = [unit for unit in units if unit.values]
    notes += _merged_notes(named, by)
    drawn = sorted(named, key=lambda unit: unit.rank)
    held = drawn[: hold_out or 0]
    kept = _without(named, held)
    if folds is None:
        tests = [held or _about(drawn, _share(manifest, ("test",)) * len(manifest))]
        held = []
    else:
        tests = _balanced(kept, folds)
    made = []
    for number, test in enumerate(tests, start=1):
        name = "" if folds is None else f"fold {number} of {folds} "
        rest = _without(named, [*test, *held])
        rest.sort(key=lambda unit: _rank(unit.rank, number))
        _check_fold(name or "the split ", test, rest, by, len(kept))
        dev = _about(rest, _share(manifest, DEV_SPLITS) * len(manifest))
        train = [*free, *_without(rest, dev)]
        sides = {"train": train, "dev": dev, "test": test, HELD_OUT: held}
        words = f"{name or 'split '}by {by}, seed {seed}"
        if hold_out is not None:
            words += f", {len(test) if folds is None else len(held)} held out"
        made.append(_with_splits(manifest, sides, words, notes))
    return made


def _check(folds: int | None, hold_out: int | None) -> None:
    if folds is not None and folds < 2:
        raise UsageError(
            human.count(folds, "fold"), remedy="ask for two or more, or leave folds out"
        )
    if hold_out is not None and hold_out < 1:
        raise UsageError(f"{hold_out} to hold out", remedy="hold out one or more")


def _check_fold(
    name: str, test: Sequence[_Unit], rest: Sequence[_Unit], by: str, left: int
) -> None:
    if test and len(rest) > 1:
        return
    groups = human.count(left, "group is", "groups are")
    empty = "test" if not test else "train" if not rest else "dev"
    raise UsageError(
        f"{name}would have an empty {empty}: {groups} left where clips that share "
        f"a {by} or footage stay together",
        remedy="ask for fewer folds, or hold out less",
    )


def _gap_notes(values: Sequence[Hashable], by: str, gaps: Gaps) -> list[str]:
    count = sum(value is None for value in values)
    if not count:
        return []
    if gaps == "refuse" or count == len(values):
        raise UsageError(
            f"{count:,} of {len(values):,} clips have no {by}: whether splits share one could not "
            "be told",
            remedy=f"fill the manifest's column {by}, or keep these clips in training only "
            "(--gaps train)",
        )
    return [
        f"{human.count(count, 'clip')} without {by} kept in training, where they may share one "
        "with dev or test"
    ]


def _merged_notes(units: Sequence[_Unit], by: str) -> list[str]:
    several = sum(len(unit.values) > 1 for unit in units)
    if not several:
        return []
    times = human.count(several, "time")
    return [f"{times}, more than one {by} is kept together because footage is shared"]


def _units(clips: Sequence[Clip], values: Sequence[Hashable | None], seed: int) -> Iterator[_Unit]:
    """Clips that hang together, by value or by footage, directly or through others."""
    parents = list(range(len(clips)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    first: dict[Hashable, int] = {}
    for number, value in enumerate(values):
        if value is not None:
            parents[root(number)] = root(first.setdefault(value, number))
    for one, other in _overlapping(clips):
        parents[root(one)] = root(other)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number in range(len(clips)):
        groups[root(number)].append(number)
    for group in groups.values():
        name = min(clips[number].id for number in group)
        known = frozenset(values[number] for number in group) - {None}
        yield _Unit(tuple(group), _rank(seed, name), known)


def _overlapping(clips: Sequence[Clip]) -> Iterator[tuple[int, int]]:
    """Pairs that show the same footage, enough of them to join all that do."""
    order = sorted(
        range(len(clips)), key=lambda number: (video(clips[number]), shown(clips[number]))
    )
    last: int | None = None
    for number in order:
        clip = clips[number]
        if last is not None and video(clips[last]) == video(clip):
            if shown(clip)[0] < shown(clips[last])[1]:
                yield number, last
            if shown(clip)[1] <= shown(clips[last])[1]:
                continue
        last = number


def _rank(*drawn_by: object) -> float:
    """Chance between 0 and 1 that is the same on every machine."""
    text = " ".join(map(str, drawn_by)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) / 2**64


def _weight(unit: _Unit) -> tuple[float, float]:
    """Large ones first, by which parts become equal, but not the same ones whatever the seed."""
    return len(unit.clips) * (0.75 + unit.rank / 2), unit.rank


def _balanced(units: Sequence[_Unit], count: int) -> list[list[_Unit]]:
    """Parts that differ by no more clips than the largest unit has."""
    parts: list[tuple[int, int, list[_Unit]]] = [(0, number, []) for number in range(count)]
    for unit in units:
        size, number, part = parts[0]
        heapq.heapreplace(parts, (size + len(unit.clips), number, [*part, unit]))
    return [part for _, _, part in sorted(parts, key=lambda one: one[1])]


def _about(units: Sequence[_Unit], clips: float) -> list[_Unit]:
    """In their order, those that come nearest to a number of clips: at least one, never all."""
    chosen, held = list[_Unit](), 0
    for unit in units:
        nearer = abs(held + len(unit.clips) - clips) < abs(held - clips)
        if nearer and len(chosen) < len(units) - 1:
            chosen.append(unit)
            held += len(unit.clips)
    return chosen or sorted(units, key=lambda unit: len(unit.clips))[:1]


def _without(units: Sequence[_Unit], others: Sequence[_Unit]) -> list[_Unit]:
    gone = {unit.clips for unit in others}
    return [unit for unit in units if unit.clips not in gone]


def _share(manifest: Manifest, names: Sequence[str]) -> float:
    """Of the clips, those in the first split of these names that there is."""
    counts = Counter(manifest.table["split"].to_pylist())
    found = next((counts[name] for name in names if counts[name]), None)
    return _SHARE if found is None or found == len(manifest) else found / len(manifest)


def _with_splits(
    manifest: Manifest, sides: dict[str, list[_Unit]], words: str, notes: Sequence[str]
) -> Manifest:
    splits = [""] * len(manifest)
    for split, units in sides.items():
        for unit in units:
            for number in unit.clips:
                splits[number] = split
    place = manifest.table.column_names.index("split")
    table = manifest.table.set_column(place, "split", pa.array(splits, pa.string()))
    return replace(manifest, table=table, notes=(*manifest.notes, *notes), resplit=words)
