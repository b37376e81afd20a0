"""`init` writes a pipeline that loads as it is, and never over anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from spamo_cache import config
from spamo_cache.config import Pipeline
from spamo_cache.workflow.init import base_for, init

Call = Callable[..., Result]


def table(path: Path, *languages: str, clips: int = 1) -> Path:
    rows = [
        f"{number}{language};train;v/{number}.mp4;ein Satz;{language}"
        for language in languages
        for number in range(clips)
    ]
    head = "id;split;source;text;language"
    path.write_text("\n".join([head, *rows, f"d;dev;v/d.mp4;noch einer;{languages[0]}"]))
    return path


def test_a_pipeline_is_written_once_and_says_what_is_next(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "clips.csv", "German", clips=1600)
    told = call("init mine --manifest clips.csv")
    assert "note: its cells are separated by semicolons" in told.stderr
    assert "spamo-cache extract --dataset mine --manifest clips.csv\n" in told.stdout
    written = (tmp_path / "mine.yaml").read_text()
    pipeline = config.load(tmp_path / "mine.yaml", Pipeline)
    base = config.load(config.shipped("pipelines") / "phoenix14t" / "default.yaml", Pipeline)
    assert (pipeline.corpus, pipeline.spec, pipeline.llm) == ("mine", "spamo", base.llm)
    assert (pipeline.text.language, pipeline.text.lower) == ("German", False)
    # 40 epochs of 1,600 clips in batches of 16, scored once an epoch.
    assert (pipeline.translate.steps, pipeline.translate.eval_every) == (4000, 100)
    assert "40 epochs" in written
    refused = call("init mine --manifest clips.csv", code=2).stderr
    assert "is there already" in refused
    assert (tmp_path / "mine.yaml").read_text() == written
    assert "--manifest FILE" in call("init other", code=2).stderr
    assert "cannot be the name" in call("init a/b --manifest clips.csv", code=2).stderr
    assert "no pipelines entry" in call("init b --manifest clips.csv --base x", code=2).stderr
    assert not list(tmp_path.glob("[ab]*.yaml"))


@pytest.mark.parametrize(
    ("language", "base", "tokenize"),
    [("English", "how2sign", "13a"), ("Chinese", "csl-daily", "zh"),
     ("Japanese", "csl-daily", "char"), ("No: 'x' # y", "csl-daily", "13a")],
)  # fmt: skip
def test_the_language_decides_base_and_tokenizer(
    tmp_path: Path, language: str, base: str, tokenize: str
) -> None:
    made = init("mine", manifest=table(tmp_path / "clips.csv", language), output=tmp_path / "m.yml")
    assert (made.base, base_for(language)) == (base, base)
    text = config.load(made.path, Pipeline).text
    assert (text.language, text.tokenize) == (language, tokenize)


def test_a_base_and_a_spec_may_lie_anywhere(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a path from here, the file has the one from where it lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").symlink_to(made)
    (tmp_path / "runs").mkdir()
    clips = table(tmp_path / "clips.csv", "German", "English")
    done = init("mine", manifest=clips, base="lab/pipeline.yaml", output="runs/m.yaml")
    pipeline = config.load(done.path, Pipeline)
    assert (done.path.parent / pipeline.llm.weights / "config.json").is_file()
    assert "--spec lab/spec.yaml" in done.commands[1]
    assert (done.path.parent / pipeline.spec).is_file()
    assert "1 more in the table" in done.path.read_text()
    other = init("mine", manifest=clips, spec="lab/spec.yaml", output="runs/o.yaml")
    assert (other.path.parent / config.load(other.path, Pipeline).spec).is_file()
