"""The doctor tries the tokenizer of an LLM that is at hand on a corpus's sentences."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def say(lab):
    """Let the clips of the corpus say something."""

    def write(text):
        table = (lab / "manifest.csv").read_text(encoding="utf-8").splitlines()
        rows = [line.split(",")[:3] for line in table[1:]]
        lines = [table[0], *(",".join([*row, text, "German"]) for row in rows)]
        (lab / "said.csv").write_text("\n".join(lines), encoding="utf-8")

    return write


def warned(call, options=""):
    found = json.loads(
        call(f"doctor -d said --manifest said.csv --sample 0 --json {options}").stdout
    )
    return [
        (one["what"], one["where"])
        for one in found["findings"]
        if "tokens" in one["what"] and one["level"] == "warning"
    ]


@pytest.mark.parametrize("named", ["signed-weather", "pipeline.yaml"])
def test_a_script_that_the_tokenizer_does_not_know(say, call, named):
    say("明天北方有雨")
    ((what, where),) = warned(call, f"--pipeline {named}")
    assert "target tokens" in what
    assert "in 10 of 10 sentences" in what
    assert named in where


def test_sentences_longer_than_can_be_said(say, call):
    say(" ".join(["regen"] * 30))
    ((what, _),) = warned(call, "--pipeline pipeline.yaml")
    assert "10 of 10 sentences" in what
    assert "decode.max_tokens = 6" in what


def test_nothing_to_complain_about(say, call):
    say("heute regen")
    assert warned(call, "--pipeline signed-weather") == []


def test_every_fault_of_a_table_is_a_line(say, call, lab):
    say("regen")
    table = (lab / "said.csv").read_text(encoding="utf-8")
    (lab / "said.csv").write_text(table.replace(",regen,", ",,"), encoding="utf-8")
    told = call("doctor -d said --manifest said.csv --sample 0", code=1).stdout.splitlines()
    assert any(
        "the manifest has 10 faults" in line and "correct these rows" in line for line in told
    )
    assert sum(line.strip().startswith("row ") for line in told) == 5  # and so many more
