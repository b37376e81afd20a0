"""The table of all experiments: what was answered before stays for as long as it holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spamo_cache.config import Experiment, Variant
from spamo_cache.workflow.experiments.plan import Trial
from spamo_cache.workflow.experiments.results import Results

CARD = Path("runs", "one", "evaluation", "test.json")


@pytest.fixture
def noted(tmp_path: Path) -> Callable[..., list[str]]:
    """Names of the experiments in the table after one, ``now``, has been asked for again."""

    def known(question: str = "which?", base: str = "a") -> list[str]:
        seeds = {"before": [0, 1], "now": [0]}
        for name, asked in (("before", "a"), ("now", base)):
            wanted = [experiment("before", "which?"), experiment("now", "what?")]
            if name == "now":
                wanted[0] = experiment("before", question)
            table = Results(tmp_path, wanted, [name], seeds=seeds, corpus="c", base=asked)
            trial = Trial(experiment=name, variant="plain", seed=0, run="key", test={})
            table.add(trial, tmp_path / "runs" / "one", evaluation="test")
        return [one["name"] for one in results_in(tmp_path)["experiments"]]

    (tmp_path / CARD).parent.mkdir(parents=True)
    (tmp_path / CARD).touch()
    return known


def experiment(name: str, question: str) -> Experiment:
    return Experiment(name=name, question=question, variants={"plain": Variant(label="it")})


def results_in(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_what_was_found_before_stays(noted: Callable[..., list[str]], tmp_path: Path) -> None:
    assert noted() == ["before", "now"]
    found = results_in(tmp_path)
    assert found["seeds"] == [0, 1]
    assert [one["seeds"] for one in found["experiments"]] == [[0, 1], [0]]


def test_what_no_longer_holds_is_forgotten(noted: Callable[..., list[str]], tmp_path: Path) -> None:
    """The experiment, the base that all share or the scores are not what they were."""
    assert noted(question="which other?") == ["now"]
    assert noted(base="b") == ["now"]
    (tmp_path / CARD).unlink()
    assert noted() == ["now"]
