"""What long commands tell without a terminal: lines in a log, events for scripts, or nothing."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import Result

from spamo_cache.cli import watching
from spamo_cache.workflow.watcher import QUIET

Call = Callable[..., Result]

EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"
LONG = "--set align.steps=20 --set translate.steps=40 --set translate.eval_every=20"
TRAIN = f"train pipeline.yaml {LONG} -o run"
REPRODUCE = (
    "reproduce frames --manifest manifest.csv --pipeline pipeline.yaml --executor serial "
    f"{LONG} -o all"
)


class Clock:
    """Moves at every look; seconds of real time count for nothing."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def time_of_day(self) -> str:
        seconds = int(self.now)
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Clock]:
    """Make the clock of the display one that moves by so many seconds at every look."""

    def made(step: float) -> Clock:
        clock = Clock(step)
        monkeypatch.setattr(watching, "clock", clock)
        monkeypatch.setattr(watching, "time_of_day", clock.time_of_day)
        return clock

    return made


def seconds(log: str) -> list[int]:
    """The times that the lines of a log begin with."""
    times = re.findall(r"(?m)^(\d\d):(\d\d):(\d\d) ", log)
    return [3600 * int(h) + 60 * int(m) + int(s) for h, m, s in times]


def test_the_last_line_of_a_log_has_the_last_figures(
    clock: Callable[[float], Clock], capsys: pytest.CaptureFixture[str]
) -> None:
    clock(4.0)
    with watching.Log().task("train", "tiny", "steps") as advance:
        advance(2, 2, note="dev_bleu 1.5")
        advance(2, 2, note="dev_bleu 2.5")  # dev is scored after the last step
    first, last = capsys.readouterr().err.splitlines()
    assert "dev_bleu 1.5" in first
    assert "dev_bleu 2.5" in last


@pytest.mark.slow
def test_a_log_has_a_line_a_minute(
    lab: Path, call: Call, clock: Callable[[float], Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = {}
    for command in (EXTRACT, TRAIN, REPRODUCE):
        if command is REPRODUCE:
            monkeypatch.setenv("SPAMO_HOME", str(lab / "another"))
        running = clock(4.0)
        logs[command] = log = call(command).stderr
        told = [0, *seconds(log), int(running.now)]
        assert told[1] <= 20, log
        assert max(b - a for a, b in pairwise(told)) <= 60, log
        assert len(told) > 4, log
    assert re.search(
        r"extract frames: \d+ of 158 frames \(\d+ %\), [\d.]+ frames/\w+, .*; \d+ of 10 clips",
        logs[EXTRACT],
    )
    assert re.search(r"extract frames, probe: \d+ of 10 clips", logs[EXTRACT])
    assert re.search(
        r"train tiny, align: \d+ of 20 steps \(\d+ %\), [\d.]+ steps/\w+, .* left; loss \d",
        logs[TRAIN],
    )
    assert re.search(r"train tiny, translate: \d+ of 40 steps.*dev_bleu", logs[TRAIN])
    for stage in ("extract ...", "extract frames:", "train tiny, translate:", "report ..."):
        assert stage in logs[REPRODUCE], logs[REPRODUCE]


def test_work_that_reports_nothing_is_told_all_the_same(
    clock: Callable[[float], Clock], capsys: pytest.CaptureFixture[str]
) -> None:
    running = clock(0.0)
    log = watching.Log()
    with log.task("reproduce"), log.task("report", "page.html"):
        log.beat()
        assert capsys.readouterr().err == ""
        for _ in range(3):
            running.now += 60
            log.beat()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        f"report page.html: {minutes} min 00 s so far" for minutes in (1, 2, 3)
    ]


def test_a_terminal_shows_at_once_what_is_at_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = watching.watcher()
    with shown.task("report", "of a run"):
        assert "report of a run" in capsys.readouterr().err
        with shown.task("draw", "frames", "clips"):
            told = capsys.readouterr().err.splitlines()[-1]
            assert "draw frames" in told
            assert "report" not in told
        assert "report of a run" in capsys.readouterr().err


def test_quick_work_leaves_no_line(
    clock: Callable[[float], Clock], capsys: pytest.CaptureFixture[str]
) -> None:
    clock(0.5)
    with watching.Log().task("copy", "spatial", "partitions") as advance:
        advance(1, 2)
        advance(2, 2)
    assert capsys.readouterr() == ("", "")


def test_a_new_stage_and_the_end_are_told_at_once(
    clock: Callable[[float], Clock], capsys: pytest.CaptureFixture[str]
) -> None:
    running = clock(0.0)
    with watching.Log().task("train", "mine", "steps") as advance:
        running.now += 30
        advance(500, 1000, stage="align")  # resumed there
        running.now += 10
        advance(1000, 1000, stage="align")
        advance(0, 4, stage="translate")
        running.now += 7200
        advance(1, 4, stage="translate", note="loss 2.5")
        running.now += 21600
        advance(4, 4, stage="translate")
    lines = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "train mine, align: 500 of 1,000 steps (50 %)",
        "train mine, translate: 0 of 4 steps (0 %)",
        "train mine, translate: 1 of 4 steps (25 %), 0.5 steps/h, 6 h 00 min left; loss 2.5",
        "train mine, translate: 4 of 4 steps (100 %), 0.5 steps/h, took 8 h 00 min",
    ]


@pytest.mark.slow
def test_events_tell_the_same_to_scripts(extracted: Path, call: Call) -> None:
    events = [json.loads(line) for line in call(f"{TRAIN} --json").stdout.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["progress", "summary"]
    steps = [event for event in events if event["event"] == "progress" and "done" in event]
    assert {event["stage"] for event in steps} == {"align", "translate"}
    final = steps[-1]
    assert (final["task"], final["of"], final["unit"]) == ("train", "tiny", "steps")
    assert (final["done"], final["total"]) == (40, 40)
    assert {"loss", "lr", "dev_bleu", "per_second", "seconds_left"} <= set(final)


@pytest.mark.slow
def test_more_or_less_is_told_as_asked(extracted: Path, call: Call) -> None:
    """Before the command's name and behind it."""
    verbose = call("train pipeline.yaml -o told -v").stderr
    assert "spatial: " in verbose
    assert "device: auto" in verbose
    assert "device: auto" not in call("train pipeline.yaml -o told").stderr
    assert "device: auto" in call("-v train pipeline.yaml -o told").stderr
    for quiet in ("-q train pipeline.yaml -o told", "train pipeline.yaml -o told -q"):
        result = call(quiet)
        assert result.stderr == ""
        assert "there already" in result.stdout


def test_only_the_first_of_several_processes_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    watching.set_verbosity(0)
    assert isinstance(watching.watcher(), watching.Log)
    monkeypatch.setenv("RANK", "1")
    assert watching.watcher() is QUIET
