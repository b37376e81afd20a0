"""The Tab key, by the protocol that the shells' scripts speak."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spamo_cache.cli.completion import KNOWN_CORPORA
from spamo_cache.cli.main import app
from spamo_cache.datasets.registry import CORPORA

Tab = Callable[[str], list[str]]


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tab:
    """What bash is offered behind a line, in an empty folder with two roots."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPAMO_CACHE", f"{tmp_path}/own:s3://nowhere:{tmp_path}/none")
    for store in ("frames/motion-0123456789ab", "frames/spatial-0123456789ab"):
        (tmp_path / "own" / f"{store}.zarr").mkdir(parents=True)
    (tmp_path / "own" / "frames" / "motion-ba9876543210.zarr").mkdir()
    (tmp_path / "home" / "extracted" / "mine").mkdir(parents=True)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "runs" / "mine" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "a" / "run.json").touch()

    def offered(line: str) -> list[str]:
        words = f"spamo-cache {line}".split(" ")
        asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        env = {"_SPAMO_CACHE_COMPLETE": "complete_bash", **asked}
        told = CliRunner().invoke(app, [], prog_name="spamo-cache", env=env)
        assert told.stderr == ""
        return told.stdout.split()

    return offered


@pytest.mark.slow
def test_what_has_a_name_is_completed(tab: Tab) -> None:
    assert tab("extract -d ph") == ["phoenix14t"]
    assert tab("extract --dataset mi") == ["mine"]
    assert tab("reproduce fr") == ["frames"]
    assert tab("extract --spec sp") == ["spamo", "spamo-regions"]
    assert tab("train m") == ["mine.yaml"]
    assert tab("train phoenix") == ["phoenix14t"]
    assert tab("store info frames/s") == ["frames/spatial"]
    both = ["frames/motion-0123456789ab", "frames/motion-ba9876543210"]
    assert tab("store verify frames/m") == both
    assert tab("store ls frames/m") == both
    assert tab("evaluate r") == tab("report ") == ["runs/mine/a"]
    assert tab("evaluate runs/mine/a --against ") == ["runs/mine/a"]
    assert tab("sto") == ["store"]
    assert tab("train --features s") == ["spatial=frames/spatial"]
    assert tab("train --features motion=frames/motion-b") == ["motion=frames/motion-ba9876543210"]
    assert tab("reproduce --all --only al") == ["align"]
    assert tab("reproduce --all --only align,s") == [
        "align,scales",
        "align,signers",
        "align,streams",
        "align,stride",
    ]


def test_what_goes_wrong_does_not_reach_the_shell(
    tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPAMO_CACHE")
    monkeypatch.setenv("SPAMO_HOME", "~nobody-is-called-so/home")
    assert tab("store info ") == tab("extract -d ") == []


def test_all_known_corpora_are_offered() -> None:
    assert set(KNOWN_CORPORA) == set(CORPORA)


QUICK = """
import sys
from spamo_cache.cli import completion
for offered in (completion.corpora, completion.stores, completion.runs, completion.specs):
    offered("")
print(sorted({"torch", "numpy", "pyarrow", "pydantic", "yaml", "awscrt"} & set(sys.modules)))
"""


def test_nobody_waits_for_it(tab: Tab) -> None:
    ran = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
