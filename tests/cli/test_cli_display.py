"""Numbers and tables as people read them."""

from pathlib import Path

import pytest

from spamo_cache.cli import display, reproduce
from spamo_cache.runs.records import read_card
from spamo_cache.workflow.reproduce import EXPECTED_BLEU4, Reproduction
from spamo_cache.workflow.timings import StageTimings
from tests.conftest import Tiny


def test_a_table_prints_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    display.table(("clip", "n"), [("[red]a[/red] :smile:", 1_234_567), ("ä" * 90, 2)], title="T")
    printed = capsys.readouterr().out
    assert "[red]a[/red] :smile:" in printed
    assert "1,234,567" in printed
    assert "ä" * 90 in printed
    assert set(printed) <= {*map(chr, range(128)), "ä"}, "boxes are for terminals"
    assert printed.splitlines()[3].endswith("         2")


def test_columns_are_plain_and_never_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("weather/motion", "9", "stride 4, phase 2"), ("天気/motion", "10", "")]
    display.columns(("store", "clips", "notes"), rows, right=("clips",))
    assert capsys.readouterr().out.splitlines() == [
        "store           clips  notes",
        "weather/motion      9  stride 4, phase 2",
        "天気/motion        10",
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    display.columns(("store", "clips", "notes"), rows, right=("clips",))
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "weather/motion      9",
        "    stride 4, phase 2",
    ]


def test_failures_are_listed_up_to_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [(f"clip{k}", "gone" if k % 5 else "broken") for k in range(25)]
    display.failures(failed, rest="see there")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "failed: clip0: broken"
    assert lines[20:] == ["... and 5 more: see there", "20 times: gone", "5 times: broken"]
    display.failures([("a", "gone"), ("b.mp4", "gone")], sources={"a": "a.mp4", "b.mp4": "b.mp4"})
    told = capsys.readouterr().err.splitlines()
    assert told == ["failed: a (a.mp4): gone", "failed: b.mp4: gone"]
    display.failures(failed[:20])
    assert len(capsys.readouterr().err.splitlines()) == 20


def test_the_embedded_corpus_is_shown_with_what_to_expect(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Reproduction(
        path=tiny.run,
        report=tmp_path / "report.html",
        card=read_card(tiny.run / "evaluation" / "test.json"),
        failed=[],
        failed_sources={},
        stages=StageTimings(tmp_path / "stages.json"),
        expected=EXPECTED_BLEU4,
    )
    reproduce._show(done)
    printed = capsys.readouterr().out
    assert f"{tiny.run}: test split of frames" in printed.replace("\n", "")
    assert "to expect: BLEU-4 from 57.16 to 63.24" in printed
