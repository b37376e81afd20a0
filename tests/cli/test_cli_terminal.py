"""Texts of strangers on the terminal: no command passes on what would steer it."""

from __future__ import annotations

import csv
import json
import logging
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from spamo_cache.cli import display, main
from spamo_cache.errors import SpamoError

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]

EVIL = (
    "\x1b]0;title\x07\x1b]52;c;Y2xpcGJvYXJk\x07\x1b[2J\x1b[31m\x9b2K\x7f\r\b"
    "\u202eesrever\u2066\u2028\nerror: forged"
)
MARKUP = "[red]a[/red][link=http://x]b[/link][/nothing] :smile:"
SHOWN = "\\u001b]0;title\\u0007\\u001b]52;c;Y2xpcGJvYXJk"
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(result: Result, *, lines: bool = True) -> None:
    """Neither stream of a command holds anything but text, tabs and ends of lines."""
    for stream in (result.stdout, result.stderr):
        assert not STEERING.findall(stream), stream
        if lines:
            assert "\nerror: forged" not in stream


@pytest.fixture(scope="module")
def lab(made: Path, enter: Enter, call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of evil ids, texts, glosses and sources, extracted by an evil user, and trained."""
    folder = tmp_path_factory.mktemp("evil")
    for name in ("clip-vision", "videomae", "llm", "spec.yaml", "pipeline.yaml"):
        (folder / name).symlink_to(made / name)
    rows = []
    for number, split in enumerate(["train"] * 4 + ["dev", "test", "test"]):
        source = f"frames/{number}[red]"
        (folder / source).mkdir(parents=True)
        for frame in range(17):
            picture = np.full((32, 40, 3), 9 * frame + number, np.uint8)
            assert cv2.imwrite(str(folder / source / f"{frame:02}.png"), picture)
        rows.append([f"{number}{EVIL}", split, source, f"wort {EVIL}{MARKUP}", "German", EVIL])
    # One that fails, and is listed.
    (folder / rows[-1][2] / "03.png").write_bytes(b"\x89PNG and nothing more")
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "split", "source", "text", "language", "gloss"], *rows])
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        patch.setenv("LOGNAME", f"me{EVIL}")
        harmless(call(f"{EXTRACT} --streams spatial,motion", code=1))
        harmless(call("train pipeline.yaml -o run"))
    return folder


EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"


def run(line: str, code: int) -> Result:
    """What a command prints, which must be harmless."""
    result = CliRunner().invoke(main.app, shlex.split(line))
    assert result.exception is None or isinstance(result.exception, SystemExit), line
    assert result.exit_code == code, (line, result.output)
    harmless(result)
    return result


QUOTED = shlex.quote(EVIL)


@pytest.mark.slow
def test_stage_one_passes_on_nothing_that_steers_a_terminal(
    lab: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(lab, monkeypatch)
    assert SHOWN in run(EXTRACT, 1).stderr
    store = shlex.quote(json.loads(run("store ls --json", 0).stdout)[0]["path"])
    for line, code in [
        ("doctor -d frames --manifest manifest.csv", 1),
        ("manifest -d frames --manifest manifest.csv", 0),
        ("store ls", 0),
        (f"store info {store}", 0),
        (f"store info {store} --clip {shlex.quote('0' + EVIL)} --row 0", 0),
        (f"store info {store} --clip {QUOTED} --row 0", 2),
        (f"store info {QUOTED}", 2),
        (f"store verify {store} --deep", 0),
    ]:
        run(line, code)


@pytest.mark.slow
def test_stage_two_passes_on_nothing_that_steers_a_terminal(
    lab: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(lab, monkeypatch)
    for line, code in [
        ("train pipeline.yaml -o run", 0),
        (f"train pipeline.yaml --set name={QUOTED}", 2),
        ("evaluate run", 0),
        ("translate run 'frames/0[red]'", 0),
        ("translate run manifest.csv", 1),
        (f"translate run {QUOTED}", 2),
        ("analyze run --split test", 0),
        (f"report run -o {shlex.quote('page' + EVIL.replace('/', '') + '.html')}", 0),
    ]:
        run(line, code)


@pytest.mark.parametrize(
    "line",
    [QUOTED, f"extract --{QUOTED}", f"extract --limit {QUOTED}"],
    ids=["command", "option", "value"],
)
def test_errors_of_usage_pass_on_nothing_that_steers_a_terminal(line: str) -> None:
    result = CliRunner().invoke(main.app, shlex.split(line))
    assert result.exit_code == 2
    # Their boxes break lines anyhow.
    harmless(result, lines=False)


@pytest.mark.slow
def test_what_scripts_read_is_json_that_gives_the_very_texts(
    lab: Path, call: Call, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(lab, monkeypatch)
    listed = call("store ls --json")
    harmless(listed)
    path = shlex.quote(json.loads(listed.stdout)[0]["path"])
    info = call(f"store info {path} --json")
    harmless(info)
    assert f"me{EVIL}" in json.loads(info.stdout).values()


# --- the parts ------------------------------------------------------------------------------------


def test_an_error_is_told_on_lines_of_its_own() -> None:
    told = str(SpamoError(f"what {EVIL}", where=EVIL, remedy=f"do {EVIL}\n  to do: run it"))
    assert not STEERING.search(told)
    assert [line.split()[0] for line in told.splitlines()] == ["what", "where:", "to"]
    assert str(SpamoError("faults:\n    one\n    two")).splitlines() == [
        "faults:",
        "    one",
        "    two",
    ]


def test_what_others_print_passes_by_a_net() -> None:
    app = typer.Typer(cls=main.Commands, pretty_exceptions_enable=False)

    @app.command("other")
    def other() -> None:
        typer.echo(EVIL)
        typer.echo(EVIL, err=True)
        logging.StreamHandler().handle(logging.makeLogRecord({"msg": EVIL, "levelno": 50}))
        sys.stderr.writelines([EVIL])

    app.command("another")(lambda: None)
    result = CliRunner().invoke(app, ["other"])
    assert result.exception is None
    harmless(result, lines=False)
    assert SHOWN in result.stdout
    assert result.stderr.count(SHOWN) == 3


@pytest.mark.parametrize("show", ["title", "line", "say", "table", "pairs", "error", "progress"])
def test_on_a_terminal_only_our_own_sequences_are_written(show: str) -> None:
    code = f"""
from time import monotonic
from spamo_cache.cli import display, terminal
from spamo_cache.errors import SpamoError
evil = {EVIL + MARKUP!r}
with display.guarded():
    match {show!r}:
        case "title": display.title(evil)
        case "line": display.line(evil, evil)
        case "say": display.say(evil)
        case "table": display.table((evil,), [(evil,)], title=evil)
        case "pairs": display.pairs({{"a": evil}}, title=evil)
        case "error": display.error(str(SpamoError(evil)))
        case "progress":
            with terminal.Terminal(monotonic).task(evil, evil, "clips") as advance:
                advance(1, 2, stage=evil, unit=evil, note=evil)
"""
    shown = on_a_terminal(code)
    # Styles, and what draws a bar: cursor up, erase line, cursor on and off.
    rest = re.sub(r"\x1b\[([0-9;]*m|\?25[lh]|[12]K|1A)|\r", "", shown)
    assert not STEERING.findall(rest), rest
    assert "\x1b[31m" not in shown
    assert "\nerror: forged" not in rest
    if show != "table":
        assert "[red]a[/red]" in rest


def on_a_terminal(code: str) -> str:
    ours, theirs = pty.openpty()
    # Wide enough for one line, as the terminal's own width would break words.
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "900"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    ) as running:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 65536):
                shown += block
        except OSError:
            pass  # the other end is closed
    os.close(ours)
    assert running.returncode == 0, shown
    return shown.decode()


def test_every_file_of_commands_prints_by_display_alone() -> None:
    folder = Path(display.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "display.py":
            assert not re.search(r"typer\.(echo|secho)|\bprint\(|sys\.std(out|err)\.w", text), path
