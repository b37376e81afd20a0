"""Translations beside their references."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from sacrebleu import sentence_chrf

from spamo_cache.report.markup import Markup, number, tag, text
from spamo_cache.report.parts import section
from spamo_cache.report.runs import Evaluation, Line, Run

SHOWN = 12
"""Translations shown at once; the others unfold."""
MOST = 2_000
"""Translations a page holds at all: a browser has to carry it."""

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
        "reference."
    )
    unfolded = None
    if rest:
        summary = f"{len(rest):,} more, best first"
        unfolded = tag("details", tag("summary", summary), _pairs(run, rest))
    return section(
        run.name, "Translations", lead, _pairs(run, [ranked[i] for i in picked]), unfolded
    )


def ranked_lines(evaluation: Evaluation) -> list[tuple[float, Line]]:
    """(chrF, line), best first; ties in the order of the split."""
    scored = [
        (float(sentence_chrf(line.hypothesis, [line.reference]).score), line)
        for line in evaluation.lines
    ]
    return sorted(scored, key=lambda pair: -pair[0])


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` positions at even distances, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def _pairs(run: Run, ranked: Sequence[tuple[float, Line]]) -> Markup:
    language = _LANGUAGE_CODES.get(run.pipeline.text.language)
    return tag("ol", *(_pair(score, line, language) for score, line in ranked), class_="pairs")


def _pair(score: float, line: Line, language: str | None) -> Markup:
    hue = round(score / 100, 2)
    meter = tag(
        "span",
        tag("b", number(score, 0)),
        tag("span", tag("i", style=f"--share:{hue}"), class_="meter", aria_hidden="true"),
        class_="score",
        aria_label=f"chrF {number(score, 0)}",
        role="img",
    )
    said = marked(line) if line.hypothesis else tag("em", _silence(line))
    return tag(
        "li",
        meter,
        tag(
            "div",
            tag("p", line.reference, class_="reference", lang=language),
            tag("p", said, class_="hypothesis", lang=language),
            tag("p", line.id, class_="clip"),
        ),
    )


def _silence(line: Line) -> str:
    return f"no translation: {line.failed}" if line.failed else "an empty translation"


def marked(line: Line) -> Markup:
    """The hypothesis with the words marked that have no partner in the reference."""
    # Languages written without spaces are compared by character.
    spaced = " " in line.reference
    said = line.hypothesis.split() if spaced else list(line.hypothesis)
    meant = line.reference.split() if spaced else list(line.reference)
    glue = " " if spaced else ""
    parts: list[Markup] = []
    for kind, start, stop, *_ in SequenceMatcher(a=said, b=meant, autojunk=False).get_opcodes():
        words = glue.join(said[start:stop])
        if words:
            parts.append(text(words) if kind == "equal" else tag("mark", words))
    return Markup(glue.join(parts))
