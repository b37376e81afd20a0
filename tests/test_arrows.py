"""Imports point down only, and stage 2 lives without stage 1's extras."""

import ast
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import spamo_cache

PACKAGE = Path(spamo_cache.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS: dict[str, int] = {
    "cli": 12,
    "workflow": 11,
    "report": 10,
    "analysis": 9,
    "evaluate": 8,
    **dict.fromkeys(("train", "extract"), 7),
    **dict.fromkeys(("runs", "doctor"), 6),
    **dict.fromkeys(("model", "encoders", "metrics", "video"), 5),
    "datasets": 4,
    "store": 3,
    "poses": 2,
    **dict.fromkeys(("config", "checkpoints", "devices", "extras", "io", "restricted"), 1),
    **dict.fromkeys(("errors", "compat", "bounded", "human", "process"), 0),
}
EXTRAS = ("open_clip", "decord", "torchvision", "av", "dask", "distributed", "dask_jobqueue")
STAGE_1 = ("extract", "encoders", "video", "doctor", "poses")
STAGE_2 = ("train", "evaluate", "analysis", "report", "model", "metrics", "runs")


def part_of(module: str) -> str:
    """``spamo_cache.store.layout`` -> ``store``; the package itself is ''."""
    return [*module.split("."), ""][1]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = {path.relative_to(PACKAGE.parent).with_suffix(""): path for path in FILES}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}


def imports_of(path: Path, known: Collection[str]) -> set[str]:
    """Modules of the package that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            source = node.module or ""
            inner = {f"{source}.{alias.name}" for alias in node.names} & set(known)
            # `from package import module` needs the module; of the package only its name.
            found |= inner or {source}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


def edges() -> dict[str, set[str]]:
    """Part of the package -> parts it imports."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        if part_of(name) not in {"", "__main__"}:
            parts = {part_of(target) for target in imports_of(path, known)}
            graph.setdefault(part_of(name), set()).update(parts - {part_of(name), ""})
    return graph


def test_the_levels_name_every_part_of_the_package() -> None:
    assert set(edges()) <= set(LEVELS)
    assert len(edges()) >= 8


def test_imports_point_strictly_down() -> None:
    pairs = {(a, b) for a, targets in edges().items() for b in targets}
    assert not {(a, b) for a, b in pairs if LEVELS[b] >= LEVELS[a]}


def test_no_module_imports_itself_in_a_circle() -> None:
    known = modules()
    del known["spamo_cache"]  # it exports from everywhere, and imports when it is asked
    graph = {name: imports_of(path, known) - {name} for name, path in known.items()}
    TopologicalSorter(graph).prepare()


def test_the_stages_meet_in_the_store_only() -> None:
    graph = edges()
    assert not graph["extract"] & set(STAGE_2)
    for part in STAGE_2:
        assert not graph[part] & set(STAGE_1), part
    assert graph["store"] <= {
        "bounded",
        "config",
        "errors",
        "extras",
        "human",
        "io",
        "poses",
        "process",
        "restricted",
    }


def test_the_packages_by_level() -> None:
    """Printed by ``pytest -s``: who imports whom, from the commands down; without a cycle."""
    graph = edges()
    for part in sorted(graph, key=lambda name: (-LEVELS[name], name)):
        print(f"{LEVELS[part]:>3} {part:<12} {' '.join(sorted(graph[part]))}")  # noqa: T201
    TopologicalSorter(graph).prepare()


def test_nothing_below_the_commands_knows_of_a_terminal() -> None:
    """No typer, no rich, no print."""
    for name, path in modules().items():
        if part_of(name) in {"cli", "__main__"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            sources = set()
            if isinstance(node, ast.Import):
                sources = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                sources = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                sources = {node.func.id} & {"print"}
            assert not sources & {"typer", "rich", "click", "print"}, f"{path}: {ast.unparse(node)}"


def test_no_command_calls_another() -> None:
    """Files of the commands share printers and options; what two commands do is in workflow/."""
    shared = {"completion", "display", "options", "scores", "terminal", "watching"}
    assembled = {"main", "store"}  # which put the commands together
    for path in (PACKAGE / "cli").glob("*.py"):
        if path.stem not in assembled:
            inner = imports_of(path, modules())
            others = {name.removeprefix("spamo_cache.cli.") for name in inner if ".cli." in name}
            assert others <= shared, path


WITHOUT_EXTRAS = """
import importlib, sys
from importlib.machinery import PathFinder

class Absent(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {extras!r} else super().find_spec(name, path)

sys.meta_path[:] = [Absent if finder is PathFinder else finder for finder in sys.meta_path]
try:
    import {first}
except ModuleNotFoundError:
    pass
else:
    sys.exit("the extras are not blocked")
for name in {modules!r}:
    importlib.import_module(name)
"""


@pytest.mark.slow
def test_stage_2_imports_without_the_extras_of_stage_1() -> None:
    names = sorted(n for n in modules() if part_of(n) not in {*STAGE_1, "__main__"})
    assert {"spamo_cache.store.layout", "spamo_cache.cli.main"} <= set(names)
    code = WITHOUT_EXTRAS.format(extras=EXTRAS, first=EXTRAS[0], modules=names)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_help_is_quick_because_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys, spamo_cache.cli.main; "
        "heavy = {'torch', 'transformers', 'zarr', 'peft', 'cv2', 'open_clip', 'dask', 'pyarrow'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
