"""A newcomer with a folder of videos and a table: every command of the page on own corpora.

As the page prints them and in its order, in an empty home. The hub's cache holds tiny networks in
the files of the published ones; nothing else is put in place of anything but the processes that
extract, which would not know them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner, Result

from spamo_cache.cli.main import app
from spamo_cache.extract import executors
from tests.support import hub
from tests.support.browser import OVERFLOW, found_or_skipped
from tests.support.videos import encode

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-corpus.md"
SENTENCES = {
    "train": ["Morgen regnet es im Norden", "Im Süden scheint die Sonne", "Es bleibt trocken",
              "Am Abend kommt Wind auf"],
    "dev": ["Im Norden bleibt es trocken", "Morgen scheint die Sonne"],
    "test": ["Am Abend regnet es", "Im Süden kommt Wind auf"],
}  # fmt: skip


def commands() -> list[str]:
    """Those of the page that lead from the table to a report."""
    text = PAGE.read_text(encoding="utf-8").split("\n## A reader of its own")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "".join(blocks).splitlines()


def draw(folder: Path) -> None:
    """Eight short videos, and their table as a German spreadsheet saves it."""
    (folder / "videos").mkdir(parents=True)
    rows = ["id;split;source;text;language"]
    for letter, (split, texts) in zip("abc", SENTENCES.items(), strict=True):
        for number, text in enumerate(texts, 1):
            name = f"{letter}{number}"
            encode(folder / "videos" / f"{name}.mp4", frames=16 + number, size=(64, 48))
            rows.append(f"{name};{split};videos/{name}.mp4;{text};German")
    (folder / "clips.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))


def shorten(pipeline: Path) -> None:
    """What somebody in a hurry would edit."""
    text = pipeline.read_text(encoding="utf-8")
    text = re.sub(r"(steps|eval_every): \d+", r"\1: 2", text)
    pipeline.write_text(text + "decode: {beams: 1, max_tokens: 8}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first day")


@pytest.fixture(scope="module")
def day(home: Path) -> Mapping[str, Result]:
    """What each command of the page came to, typed where the table lies."""
    folder, cache = home / "my corpus", home / "hub"
    draw(folder)
    said = [text for texts in SENTENCES.values() for text in texts]
    hub.build(cache, [*said, "Translate the given sentence into German."])
    import open_clip  # needs what has been declared by now

    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14-quickgelu", hub.CLIP)
        patch.setattr(executors, "run_dask", _serially)
        patch.setenv("SPAMO_HOME", str(home / "kept"))
        patch.delenv("SPAMO_CACHE", raising=False)
        patch.chdir(folder)
        for line in commands():
            program, *words = shlex.split(line)
            assert program == "spamo-cache"
            result = CliRunner().invoke(app, words)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            assert result.exit_code == 0, f"{line}\n{result.output}"
            done[line] = result
            if words[0] == "init":
                shorten(folder / "mine.yaml")
    return done


def _serially(config: Any, tasks: Any, advance: Any, *_: object) -> Any:
    return executors.run_serial(config, tasks, advance)


@pytest.mark.slow
def test_every_command_of_the_page_works_as_printed(day: Mapping[str, Result], home: Path) -> None:
    told = {line.split(" ", 1)[1]: result.output for line, result in day.items()}
    named = "--dataset mine --manifest clips.csv"
    assert "semicolon" in told[f"doctor {named}"]
    assert "to compute" in told[f"extract {named} --dry-run"]
    assert re.search(r"computed +8", told[f"extract {named}"])
    again = told["reproduce mine --manifest clips.csv --pipeline mine.yaml"]
    assert len(re.findall(r"(extract|train|evaluate) .* reused", again)) == 3
    folder = home / "my corpus"
    card = json.loads((folder / "runs/mine/default/evaluation/test.json").read_text())
    assert card["n"] == 2
    assert [path.name for path in (home / "kept" / "extracted").iterdir()] == ["mine"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Am Abend regnet es" in page
    # The clips are shown with frames, wherever the videos lay when they were extracted.
    assert "data:image/jpeg" in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_the_report_fits_its_window(
    day: Mapping[str, Result], home: Path, tmp_path_factory: pytest.TempPathFactory, width: int
) -> None:
    del day
    browser = found_or_skipped(tmp_path_factory.mktemp("browser"))
    scroll, client, wide = browser.ask(home / "my corpus" / "report.html", OVERFLOW, width=width)
    assert (wide, browser.heard) == ([], [])
    assert scroll == client <= width
