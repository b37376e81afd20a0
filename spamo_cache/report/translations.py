"""Translations beside their references, and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from spamo_cache.report.evaluations import Evaluation, Line
from spamo_cache.report.markup import Markup, number, tag, text
from spamo_cache.report.parts import section, words
from spamo_cache.report.runs import Run

SHOWN = 12
"""Translations shown at once; the others unfold."""
MOST = 2_000
"""Translations a page holds at all: a browser has to carry it."""

LONGEST = 400
"""Words up to which a translation is compared with its reference; the time is their product."""

Edit = tuple[str, list[str], list[str]]

_LANGUAGE_CODES = {
    "German": "de",
    "English": "en",
    "Chinese": "zh",
    "Spanish": "es",
    "French": "fr",
}


def translations(run: Run) -> Markup | None:
    """Hypotheses beside references, spread evenly from the best chrF to the worst."""
    shown = run.headline
    if shown is None or not shown.lines:
        return None
    ranked = ranked_lines(shown)
    picked = spread(len(ranked), SHOWN)
    rest = [ranked[i] for i in range(len(ranked)) if i not in set(picked)][: MOST - SHOWN]
    lead = (
        f"{len(picked)} of {len(ranked):,} clips of {shown.name}, taken at even distances from the "
        "best chrF to the worst: not a choice of fine examples. Marked words do not stand in the "
        "reference above them."
    )
    unfolded = None
    if rest:
        summary = f"{len(rest):,} more, best first"
        unfolded = tag("details", tag("summary", summary), _pairs(run, rest), class_="more")
    return section(
        run.anchor, "Translations", lead, _pairs(run, [ranked[i] for i in picked]), unfolded
    )


def ranked_lines(evaluation: Evaluation) -> list[Line]:
    """Best chrF first; ties in the order of the split."""
    return sorted(evaluation.lines, key=lambda line: -line.chrf)


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` positions at even distances, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def _pairs(run: Run, ranked: Sequence[Line]) -> Markup:
    language = language_code(run)
    return tag("ol", *(_pair(line, language) for line in ranked), class_="pairs")


def _pair(line: Line, language: str | None) -> Markup:
    share = round(min(max(line.chrf / 100, 0), 1), 2)
    meter = tag(
        "span",
        tag("b", number(line.chrf, 0)),
        tag("span", tag("i", style=f"--share:{share}"), class_="meter", aria_hidden="true"),
        class_="score",
        aria_label=f"chrF {number(line.chrf, 0)}",
        role="img",
    )
    return tag("li", meter, tag("div", *said(line, language)))


def said(line: Line, language: str | None) -> list[Markup]:
    """A clip's reference, its translation, and its name."""
    translation = marked(line) if line.hypothesis else tag("em", _silence(line))
    seen = tag("b", "a training sentence", class_="mark unknown") if line.seen else None
    return [
        tag("p", words(line.reference), class_="reference", lang=language),
        tag("p", tag("bdi", translation), class_="hypothesis", lang=language),
        tag("p", words(line.id), " ", seen, class_="clip"),
    ]


def language_code(run: Run) -> str | None:
    """What a browser calls the language of a run's translations."""
    return _LANGUAGE_CODES.get(run.pipeline.text.language)


def _silence(line: Line) -> str:
    return f"no translation: {line.failed}" if line.failed else "an empty translation"


def marked(line: Line) -> Markup:
    """The hypothesis with the words marked that have no partner in the reference."""
    found = compared(line)
    if found is None:
        return text(line.hypothesis)
    glue, edits = found
    parts = [
        text(glue.join(said)) if kind == "equal" else tag("mark", glue.join(said))
        for kind, _, said in edits
        if said
    ]
    return Markup(glue.join(parts))


def compared(line: Line) -> tuple[str, list[Edit]] | None:
    """What joins words, and (kind, words meant, words said) along both; None where it is too long.

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
