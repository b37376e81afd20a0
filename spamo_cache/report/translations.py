"""Translations beside their references, where they part, and which words are confused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from markupsafe import Markup, escape

from spamo_cache.human import LANGUAGE_CODES
from spamo_cache.report.runs import RunView
from spamo_cache.report.templating import render, template_filter
from spamo_cache.runs.records import Evaluation, ScoredClip

SHOWN = 12
"""Translations shown at once; the others unfold."""
MOST = 2_000
"""Translations a page holds at all: a browser has to carry it."""
LONGEST = 400
"""Words up to which a translation is compared with its reference; the time is their product."""
CONFUSIONS = 15
EXAMPLES = 6
"""Confusions with a clip to look at."""
SHOTS = 4
"""Frames beside a translation."""

Edit = tuple[str, list[str], list[str]]
"""(kind, words meant, words said)"""
Pair = tuple[str, str]
"""(word meant, word said)"""
Frames = Callable[[Path, Sequence[str]], Mapping[str, Sequence[bytes]]]
"""(run folder, clip ids) -> a few frames of each as JPEG; clips without any may be absent."""


def language_code(run: RunView) -> str | None:
    """What a browser calls the language of a run's translations."""
    return LANGUAGE_CODES.get(run.pipeline.text.language)


def translations(run: RunView, frames: Frames | None = None) -> Markup | None:
    """Hypotheses beside references, spread evenly from the best chrF to the worst."""
    shown = run.headline
    if shown is None or not shown.lines:
        return None
    # Ties stay in the order of the split.
    ranked = sorted(shown.lines, key=lambda line: -line.chrf)
    picked = spread(len(ranked), SHOWN)
    pictures = {} if frames is None else frames(run.path, [ranked[i].id for i in picked])
    rest = [line for i, line in enumerate(ranked) if i not in set(picked)]
    lead = (
        f"{len(picked)} of {len(ranked):,} clips of {shown.name}, taken at even distances from the "
        "best chrF to the worst: not a choice of fine examples. Marked words do not stand in the "
        "reference above them."
    )
    return render(
        "translations.html",
        place=run.anchor,
        name=run.name,
        lead=lead,
        language=language_code(run),
        pictures={
            clip: [shots[place] for place in spread(len(shots), SHOTS)]
            for clip, shots in pictures.items()
        },
        picked=[ranked[i] for i in picked],
        rest=rest[: MOST - SHOWN],
    )


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` positions at even distances, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


@template_filter
def chrf_share(line: ScoredClip) -> float:
    """A line's chrF as a share of 1, for its meter."""
    return round(min(max(line.chrf / 100, 0), 1), 2)


@template_filter
def marked(line: ScoredClip) -> Markup:
    """The hypothesis with the words marked that have no partner in the reference."""
    compared = compare(line)
    if compared is None:
        return escape(line.hypothesis)
    glue, edits = compared
    return escape(glue).join(
        glue.join(said) if kind == "equal" else Markup("<mark>{}</mark>").format(glue.join(said))
        for kind, _, said in edits
        if said
    )


def compare(line: ScoredClip) -> tuple[str, list[Edit]] | None:
    """What joins words, and the edits from meant to said; None where it is too long.

    Languages written without spaces are compared by character.
    """
    spaced = " " in line.reference
    said = line.hypothesis.split() if spaced else list(line.hypothesis)
    meant = line.reference.split() if spaced else list(line.reference)
    if max(len(said), len(meant)) > LONGEST:
        return None
    codes = SequenceMatcher(a=said, b=meant, autojunk=False).get_opcodes()
    edits: list[Edit] = [(kind, meant[c:d], said[a:b]) for kind, a, b, c, d in codes]
    return " " if spaced else "", edits


def confusions(run: RunView, frames: Frames | None) -> Markup | None:
    """The words most often put in the place of others; None where there are none."""
    confused = confused_words(run.headline) if run.headline is not None else []
    if not confused:
        return None
    examples = _examples(confused)
    clips = [line.id for _, line in examples]
    return render(
        "confusions.html",
        place=run.anchor,
        confusions=confused[:CONFUSIONS],
        examples=examples,
        pictures=frames(run.path, clips) if frames is not None else {},
        language=language_code(run),
    )


def confused_words(shown: Evaluation) -> list[tuple[Pair, list[ScoredClip]]]:
    """(pair of words, clips), most frequent first."""
    clips: dict[Pair, list[ScoredClip]] = defaultdict(list)
    for line in shown.lines:
        compared = compare(line) if line.hypothesis else None
        pairs = [
            pair
            for kind, meant, said in (compared[1] if compared is not None else ())
            # Runs of unequal length say nothing of which word took whose place.
            if kind == "replace" and len(meant) == len(said)
            for pair in zip(meant, said, strict=True)
        ]
        for pair in dict.fromkeys(pairs):
            clips[pair].append(line)
    return sorted(clips.items(), key=lambda item: (-len(item[1]), item[0]))


def _examples(confused: Sequence[tuple[Pair, list[ScoredClip]]]) -> list[tuple[Pair, ScoredClip]]:
    """The first clip of each frequent confusion, no clip twice."""
    examples: dict[str, tuple[Pair, ScoredClip]] = {}
    for pair, lines in confused:
        free = next((line for line in lines if line.id not in examples), None)
        if free is not None and len(examples) < EXAMPLES:
            examples[free.id] = (pair, free)
    return list(examples.values())
