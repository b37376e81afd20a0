"""What a run mistakes for what, counted over a split, with clips to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spamo_cache.report.evaluations import Evaluation, Line
from spamo_cache.report.markup import Child, Markup, join, tag
from spamo_cache.report.parts import cell, picture, section, table, words
from spamo_cache.report.runs import Run
from spamo_cache.report.translations import compared, language_code, said

Frames = Callable[[Path, Sequence[str]], Mapping[str, Sequence[bytes]]]
"""(run folder, clip ids) -> a few frames of each as JPEG; clips without any may be absent."""

LISTED = 15
SHOWN = 6
"""Confusions with a clip to look at."""


def confusions(run: Run, frames: Frames | None) -> Markup | None:
    """The words most often put in the place of others; None where there is nothing to tell."""
    shown = run.headline
    found = confused(shown) if shown is not None else []
    if not found:
        return None
    examples = _examples(found)
    clips = [line.id for _, line in examples]
    pictures = frames(run.path, clips) if frames is not None else {}
    rows: list[list[Child]] = [
        [words(meant), words(instead), cell(len(lines), digits=0)]
        for (meant, instead), lines in found[:LISTED]
    ]
    lead = (
        "One word said where another was meant, wherever a gap holds as many words on both sides; "
        "counted once per clip."
    )
    head = ["in the reference", "in the translation", "clips"]
    return section(
        run.anchor,
        "Confusions",
        lead,
        table("Words confused", head, rows, numeric=2, class_="narrow"),
        tag(
            "ul",
            *(_example(run, pair, line, pictures.get(line.id, ())) for pair, line in examples),
            class_="confused",
        ),
    )


Pair = tuple[str, str]


def confused(shown: Evaluation) -> list[tuple[Pair, list[Line]]]:
    """((word meant, word said), clips), most frequent first."""
    found: dict[Pair, list[Line]] = defaultdict(list)
    for line in shown.lines:
        known = compared(line) if line.hypothesis else None
        pairs = [
            pair
            for kind, meant, instead in (known[1] if known is not None else ())
            # Runs of unequal length say nothing of which word took whose place.
            if kind == "replace" and len(meant) == len(instead)
            for pair in zip(meant, instead, strict=True)
        ]
        for pair in dict.fromkeys(pairs):
            found[pair].append(line)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _examples(found: Sequence[tuple[Pair, list[Line]]]) -> list[tuple[Pair, Line]]:
    """The first clip of each frequent confusion, no clip twice."""
    examples: dict[str, tuple[Pair, Line]] = {}
    for pair, lines in found:
        free = next((line for line in lines if line.id not in examples), None)
        if free is not None and len(examples) < SHOWN:
            examples[free.id] = (pair, free)
    return list(examples.values())


def _example(run: Run, pair: Pair, line: Line, pictures: Sequence[bytes]) -> Markup:
    heading = tag("h3", words(pair[0]), tag("span", " became "), words(pair[1]))
    told = f"Frame of clip {line.id}"
    strip = (
        tag("div", *(picture(jpeg, f"{told}, {n}") for n, jpeg in enumerate(pictures, 1)),
            class_="film")
        if pictures
        else None
    )  # fmt: skip
    return tag("li", heading, strip, join(*said(line, language_code(run))))
