"""The size of the house: modules, lines, and how the packages import each other.

    python benchmarks/structure.py [FOLDER]     # the package's folder, this checkout's by default

Counts what `spamo_cache` consists of; a module that only one other imports is a room that one
person enters, and often part of that one.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median


def imports_of(tree: ast.Module, known: set[str]) -> Iterator[tuple[str, int]]:
    """Modules of the package that a file imports, each with the lines of the statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            names = inner or {node.module or ""}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        else:
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        yield from ((name, lines) for name in names & known)


def main(package: Path) -> None:
    """Print the figures of the package in this folder."""
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }
    trees = {name: ast.parse(text) for name, text in files.items()}
    importers: Counter[str] = Counter()
    arrows: dict[str, set[str]] = {}
    import_lines = 0
    for name, tree in trees.items():
        targets = list(imports_of(tree, set(files)))
        importers.update({target for target, _ in targets} - {name})
        import_lines += sum(lines for _, lines in targets)
        top = name.split(".")[1:2]
        below = {part for target, _ in targets for part in target.split(".")[1:2]}
        if top:
            arrows.setdefault(top[0], set()).update(below - set(top))
    lines = [text.count("\n") for text in files.values()]
    print(f"modules                      {len(files):>8,}")
    print(f"lines                        {sum(lines):>8,}")
    print(f"median module                {median(lines):>8,.0f}")
    print(f"lines that import each other {import_lines / sum(lines):>8.1%}")
    print(f"modules with one importer    {sum(n == 1 for n in importers.values()):>8,}\n")
    for part, below in sorted(arrows.items()):
        count = sum(name.split(".")[1:2] == [part] for name in files)
        print(f"{part:<12} {count:>3} modules -> {', '.join(sorted(below)) or '-'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "spamo_cache")
