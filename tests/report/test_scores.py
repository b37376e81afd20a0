from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spamo_cache import io
from spamo_cache.errors import SpamoError
from spamo_cache.report import write_report
from spamo_cache.report.runs import read_run, with_distinct_names
from spamo_cache.report.scores import _of_runs
from spamo_cache.report.translations import LONGEST, confused_words, marked
from spamo_cache.runs.records import ScoredClip

Build = Callable[..., Path]
Show = Callable[..., Any]


def changed(path: Path, **changes: Any) -> None:
    io.write_json(path, io.read_json(path) | changes)


def test_the_scorecard_has_every_metric_and_says_what_it_is(build_run: Build, page: Show) -> None:
    told = page(build_run()).text
    head = "BLEU-4 chrF TER ROUGE-L ROUGE-L, release ROUGE-L, MSCOCO n failed"
    assert head in told
    assert "40.00 ±4.0 56.00 ±5.6 60.00 ±6.0 52.00 ±5.2 48.00 ±4.8 50.00 ±5.0 6 1" in told
    assert "TER: edits per 100 words of the reference: lower is better" in told
    assert "tested with streams.motion.stride = 4" in told


def test_what_is_said_without_seeing_stands_below_and_content_words_are_counted(
    build_run: Build, page: Show
) -> None:
    run, shares = build_run(), {"precision": 80.0, "recall": 40.0}
    floor = {"metrics": {"bleu4": 3.0}, "intervals": {"bleu4": [1.0, 5.0]}, "sentences": 2,
             "commonest": "regen", "clips": 5}  # fmt: skip
    content = {"source": "numbers", "right": 4, "said": 5, "expected": 10, "metrics": shares,
               "intervals": {"recall": [30.0, 50.0]}}  # fmt: skip
    changed(run / "evaluation/test.json", prior=floor, content=content)
    told = page(run).text
    assert "test language alone: every row is the mean row of training – – – 3.00 ±2.0" in told
    assert "(numbers): 4 right of 5 said and 10 expected." in told
    assert "Precision 80.0 %, Recall 40.0 % (30.0 to 50.0)." in told


def test_conventions_stand_side_by_side_with_the_headline_marked(
    build_run: Build, page: Show
) -> None:
    told = page(build_run()).text
    assert "cased, as it stands, 13a headline 40.00 +0.00" in told
    assert "lower case, no final punctuation, none 41.00 +1.00" in told


def test_published_figures_stand_beside_ours_with_their_protocol(
    build_run: Build, page: Show
) -> None:
    told = page(build_run()).text
    assert "this run, test 40.00 48.00" in told
    assert "SpaMo arXiv 2408.10593 24.32 46.57 pairs of the batch stand in its prompts" in told


def test_warnings_come_before_any_number_and_grave_ones_first(build_run: Build, page: Show) -> None:
    found = page(build_run())
    grave, mild = "Careful: Weights were kept by test.", "Note: 1 of 6 clips has no features."
    assert found.text.index(grave) < found.text.index(mild) < found.text.index("BLEU-4")
    kinds = [p["class"] for p in found.all("p") if "banner" in (p.get("class") or "")]
    assert kinds == ["banner", "banner", "banner mild"]  # the first: a synthetic corpus


def test_a_warning_of_several_runs_is_said_once_with_their_names(
    build_run: Build, page: Show
) -> None:
    runs = [build_run(name) for name in ("one", "two")]
    changed(runs[0] / "evaluation/test.json", warnings=[])
    told = page(*runs).text
    assert told.count("Weights were kept by test. (two)") == 1


def test_a_warning_that_many_runs_have_in_numbers_of_their_own_is_said_once() -> None:
    """A page of experiments began with a hundred of them."""
    words = {f"BLEU-4 of the others is {k}": [f"run-{k}"] for k in range(5)}
    assert _of_runs(words, 9) == [
        "BLEU-4 of the others is 0 (run-0; much the same holds for 4 more of 9 runs)"
    ]
    few = {"twice": ["a", "b"], "once": ["c"], "all": list("abcd")}
    assert _of_runs(few, 9) == ["twice (a, b)", "once (c)", "all (4 of 9 runs)"]
    assert _of_runs(few, 1) == ["twice", "once", "all"]


def test_a_test_under_another_spec_is_never_the_headline(build_run: Build) -> None:
    run = build_run()
    for name in ("test.json", "test-shuffled.json"):
        (run / "evaluation" / name).unlink()
    assert read_run(run).headline is None


def test_words_confused_are_counted_once_per_clip_where_both_sides_are_as_long(
    build_run: Build,
) -> None:
    shown = read_run(build_run(repeat=3)).headline
    assert shown is not None
    found = {pair: len(lines) for pair, lines in confused_words(shown)}
    assert found["zwölf", "elf"] == 3
    assert found["wird", "ist"] == 3
    # "in den bergen" became "im westen": three words for two say nothing.
    assert not any("westen" in pair and "bergen" in pair for pair in found)


def test_translations_and_confusions_are_shown_with_frames_where_there_are_any(
    build_run: Build, page: Show
) -> None:
    run = build_run()
    asked: list[str] = []

    def frames(place: Path, clips: list[str]) -> dict[str, list[bytes]]:
        assert place == run
        asked.extend(clips)
        return {"clip:1-0": [b"\xff\xd8 a", b"\xff\xd8 b"]}

    found = page(run, frames=frames)
    # Beside the translation, and once more where it is an example of what is confused.
    assert [image["alt"] for image in found.all("img")] == 2 * [
        "Frame of clip clip:1-0, 1", "Frame of clip clip:1-0, 2",
    ]  # fmt: skip
    assert len(asked) == 6 + 2
    assert page(run).all("img") == []


def test_very_long_texts_are_not_compared_word_by_word() -> None:
    long = "wort " * (LONGEST + 1)
    assert marked(ScoredClip(id="a", hypothesis=long + "x", reference=long)) == long + "x"


def test_runs_of_one_name_are_with_distinct_names_by_their_seeds(build_run: Build) -> None:
    runs = [read_run(build_run(str(n), seed=seed)) for n, seed in enumerate((0, 1, 1))]
    named = with_distinct_names([replace(run, name="same") for run in runs])
    assert [run.name for run in named] == ["same", "same, seed 1", "same (2)"]
    assert [run.anchor for run in named] == ["run-same", "run-same-seed-1", "run-same-2"]


def test_runs_of_one_name_have_places_of_their_own(build_run: Build) -> None:
    runs = [read_run(build_run("same"))] * 2 + [read_run(build_run("Same"))]
    assert [run.name for run in with_distinct_names(runs)] == ["same", "same (2)", "Same (3)"]
    assert [run.anchor for run in with_distinct_names(runs)] == [
        "run-same",
        "run-same-2",
        "run-same-3",
    ]


@pytest.mark.parametrize("changes", [{"warnings": [{"words": "x"}]}, {"published": [{"a": 1}]}])
def test_a_damaged_scorecard_is_one_clear_error(build_run: Build, changes: Any) -> None:
    run = build_run()
    changed(run / "evaluation/test.json", **changes)
    with pytest.raises(SpamoError, match="is no scorecard"):
        write_report([run], run.parent / "r.html")
