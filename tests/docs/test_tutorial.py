"""The notebook runs from its first cell to its last."""

import importlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spamo_cache.datasets.signed_weather.grammar import ClipPlan

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"
MAKE = importlib.import_module("spamo_cache.datasets.signed_weather.make")


def one_video_for_all(plans: Sequence[ClipPlan], root: Path, *_: Any) -> None:
    """Draw one clip, the one with the fewest signs, and copy it: drawing has tests of its own."""
    for folder in ("videos", "poses"):
        (root / folder).mkdir(exist_ok=True)
    shortest = min(plans, key=lambda plan: len(plan.utterance.glosses))
    MAKE.film(shortest, root)
    for plan in plans:
        if plan is not shortest:
            shutil.copy(root / MAKE._source(shortest), root / MAKE._source(plan))


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, on as few clips and steps as there can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(MAKE, "_film_all", one_video_for_all)
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells), "clear the outputs before committing"
    first, *others = ["".join(cell["source"]) for cell in cells]
    small = re.sub(r"(?m)^(CLIPS, .+) = .+$", r"\1 = 28, 2, 4", first)
    assert small != first
    names: dict[str, Any] = {}
    for number, code in enumerate([small, *others]):
        exec(compile(code, f"cell {number}", "exec"), names)  # noqa: S102 (our own page)
    assert names["page"].is_file()
    assert names["run"].steps == 4
