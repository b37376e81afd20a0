"""A folder of experiments as reproduction leaves it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spamo_cache import io
from spamo_cache.runs.contributions import DOCUMENT, CoalitionWorth, Contributions
from spamo_cache.runs.documents import write_document

Build = Callable[..., Path]


def variant(name: str, path: str, **changes: Any) -> dict[str, Any]:
    runs = [{"seed": 0, "path": path, "evaluation": "test", "error": None}]
    known: dict[str, Any] = {
        "name": name,
        "label": f"{name} it is",
        "x": None,
        "set": {},
        "eval_spec_set": {},
    }
    return known | {"runs": runs} | changes


@pytest.fixture
def build_lab(build_run: Build) -> Callable[..., Path]:
    """Makes ``<tmp>/runs/experiments``: streams, stride and data; ``extra`` more variants."""

    def build(extra: int = 0) -> Path:
        run = partial(build_run, done={"peak_bytes": 1_500_000_000})
        full = run(strength=40.0, analysed=True)
        run("spatial", strength=22.0, streams=["spatial"])
        seeds = [run(f"data-half-{seed}", strength=30.0 + seed) for seed in range(2)]
        run("data-quarter", strength=21.0, train_fraction=0.25)
        run("stride-4", strength=38.0, spec_set={"streams.motion.stride": 4})
        crowd = [run(f"more-{n}", strength=10.0 + n / 2) for n in range(extra)]
        gone = {"seed": 0, "path": "../motion", "evaluation": "test", "error": "stopped: no memory"}
        late = {"seed": 0, "path": "../later", "evaluation": "test", "error": None}
        twice = [{"seed": n, "path": f"../{run.name}", "evaluation": "test", "error": None}
                 for n, run in enumerate(seeds)]  # fmt: skip
        tested = {"eval_spec_set": {"streams.motion.stride": 4}, "x": 4}
        tested["runs"] = [{"seed": 0, "path": "../default", "error": None,
                           "evaluation": "test@streams.motion.stride=4"}]  # fmt: skip
        listed = [
            ("streams", "Are both streams needed?", None, [
                variant("motion", "", runs=[gone], set={"streams": ["motion"]}),
                variant("spatial", "../spatial", set={"streams": ["spatial"]}),
                variant("both", "../default"),
                variant("floor", "", runs=[late], set={"shuffle_features": True}),
                variant("not-begun", "", runs=[], set={"seed": 1}),
                *(variant(run.name, f"../{run.name}", set={"seed": 2}) for run in crowd),
            ]),
            ("stride", "How far apart?", {"label": "stride in frames", "log": True}, [
                variant("stride-8", "../default", x=8),
                variant("stride-4", "../stride-4", x=4,
                        set={"spec_set": {"streams.motion.stride": 4}}),
                variant("tested-4", "", **tested),
            ]),
            ("data", "How much data?", {"label": "share of the training clips", "log": True}, [
                variant("all", "../default", x=1),
                variant("half", "", x=0.5, runs=twice, set={"train_fraction": 0.5}),
                variant("quarter", "../data-quarter", x=0.25, set={"train_fraction": 0.25}),
            ]),
        ]  # fmt: skip
        document = {
            "corpus": "signed-weather", "set": ["translate.steps=300"], "seeds": [0, 1],
            "experiments": [
                {"name": name, "question": question, "paper": "SE+ME 22.26, SE 21.11",
                 "axis": axis, "variants": variants}
                for name, question, axis, variants in listed
            ],
        }  # fmt: skip
        folder = full.parent / "experiments"
        io.write_json(folder / "results.json", document)
        write_document(folder / DOCUMENT, SHAPLEY)
        return folder

    return build


@pytest.fixture
def add() -> Callable[..., None]:
    """Adds a variant to the first experiment of a folder; its run lies beside."""

    def add(folder: Path, name: str, **changes: Any) -> None:
        known = io.read_json(folder / "results.json")
        known["experiments"][0]["variants"].append(variant(name, f"../{name}", **changes))
        io.write_json(folder / "results.json", known)

    return add


SHAPLEY = Contributions(
    metric="bleu4", players=["SE", "ME", "VT-Align"], floor=3.0, total=40.0,
    values={"SE": 20.0, "ME": 18.5, "VT-Align": -1.5},
    errors={"SE": 2.0, "ME": 1.0, "VT-Align": 0.5}, spread="bootstrap over clips", seeds=[0],
    coalitions=[
        CoalitionWorth(players=["SE"], value=20.0, error=1.0, run="streams/spatial", note=None),
        CoalitionWorth(players=[], value=3.0, error=None, run=None, note="the floor"),
    ],
)  # fmt: skip
