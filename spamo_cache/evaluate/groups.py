"""Scores by group: the clips of each signer, topic or length of sentence on their own.

Groups of one column hold every scored clip once. They are made of the translations that an
evaluation has kept, so that nothing is decoded again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.overlap import same_signers, signer
from spamo_cache.errors import UsageError
from spamo_cache.metrics import Measure, mean_of, measures, summarize, words
from spamo_cache.runs.records import Group, Scorecard, ScoredClip, keep_groups, read_lines

_STEP, _LONG = 5, 20
"""Words by which sentences are told apart, up to the long ones."""
_IN, _OUT = "in train", "not in train"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """What is scored: clips and their lines in one order, and the clips that were trained on."""

    clips: Sequence[Clip]
    lines: Sequence[ScoredClip]
    trained: Sequence[Clip]


def _lengths(scored: _Scored) -> list[str | None]:
    return [_length(len(words(line.reference))) for line in scored.lines]


def _length(count: int) -> str:
    if count > _LONG:
        return f"over {_LONG} words"
    last = max(1, -(-count // _STEP)) * _STEP
    return f"{last - _STEP + 1} to {last} words"


def _seen_sentences(scored: _Scored) -> list[str | None]:
    return [_IN if line.seen else _OUT for line in scored.lines]


def _seen_signers(scored: _Scored) -> list[str | None]:
    known = same_signers(scored.trained, scored.clips).known
    return [
        None if signer(clip) is None else _IN if hit else _OUT
        for clip, hit in zip(scored.clips, known, strict=True)
    ]


DERIVED: Mapping[str, Callable[[_Scored], list[str | None]]] = {
    "length": _lengths,
    "seen-sentence": _seen_sentences,
    "seen-signer": _seen_signers,
}
"""What clips can be grouped by beside the columns of their manifest, which come first."""


def check_columns(manifest: Manifest, columns: Iterable[str]) -> None:
    """Raise UsageError for what clips cannot be grouped by."""
    known = [*manifest.table.column_names, *DERIVED]
    for column in columns:
        if column not in known:
            raise UsageError(
                f"the manifest of {manifest.corpus} has no column {column!r}",
                remedy=f"choose among {', '.join(dict.fromkeys(known))}",
            )


def by_group(
    run: Path,
    card: Scorecard,
    columns: Sequence[str],
    *,
    manifest: Manifest,
    trained: Sequence[Clip],
    bootstrap: int,
) -> Scorecard:
    """The card of a finished evaluation with the scores of each group, which the run keeps.

    Args:
        columns: of the manifest, or of :data:`DERIVED`.
        manifest: that the clips are in.
        trained: clips that the weights were trained on.
        bootstrap: resamples behind the intervals.
    """
    lines = read_lines(run, card.name)
    clips = {clip.id: clip for clip in manifest.clips(card.split)}
    scored = _Scored(clips=[clips[line.id] for line in lines], lines=lines, trained=trained)
    measured = _measured(lines, card)
    found = {}
    for column in columns:
        labels = _labels(scored, column, manifest)
        found[column] = groups(labels, measured, bootstrap=bootstrap)
        if column not in manifest.table.column_names:
            found[column].sort(key=_by_number)
    return keep_groups(run, replace(card, groups={**card.groups, **found}))


def _by_number(group: Group) -> int:
    """Lengths from short to long, whatever else as it stands."""
    return next((int(word) for word in str(group.value).split() if word.isdigit()), 0)


def _labels(scored: _Scored, column: str, manifest: Manifest) -> list[str | None]:
    if column not in manifest.table.column_names:
        return DERIVED[column](scored)
    ids = manifest.table["id"].to_pylist()
    values = dict(zip(ids, manifest.values(column), strict=True))
    return [values[line.id] for line in scored.lines]


def _measured(lines: Sequence[ScoredClip], card: Scorecard) -> dict[str, Measure]:
    """The metrics of the card, as far as its lines tell them."""
    sides = [line.hypothesis for line in lines], [line.reference for line in lines]
    found = measures(*sides, tokenize=card.headline["tokenize"])
    judged = [line.bleurt for line in lines if line.bleurt is not None]
    if "bleurt" in card.metrics and len(judged) == len(lines):
        found["bleurt"] = mean_of(judged, card.signatures["bleurt"])
    return found


def groups(
    labels: Sequence[str | None], measured: Mapping[str, Measure], *, bootstrap: int
) -> list[Group]:
    """A group for each label, the largest first, and last the clips that have none.

    Args:
        labels: of each clip.
        measured: metrics of all clips, in the same order.
    """
    members: defaultdict[str | None, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        members[label].append(number)
    made = []
    for label, rows in members.items():
        own = {
            name: replace(measure, statistics=measure.statistics[rows])
            for name, measure in measured.items()
        }
        scores = summarize(own, bootstrap=bootstrap)
        made.append(
            Group(value=label, n=scores.n, metrics=scores.values, intervals=scores.intervals)
        )
    return sorted(made, key=lambda group: (group.value is None, -group.n, group.value or ""))
