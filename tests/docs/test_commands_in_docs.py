"""Every `spamo-cache ...` line that people are shown is one the program takes."""

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from spamo_cache.cli.main import app

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    {
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        REPOSITORY / "benchmarks" / "gpu.md",
        *(REPOSITORY / "cache_specs").rglob("*.md"),
        *(REPOSITORY / "pipelines").rglob("*.md"),
        *(REPOSITORY / "cache_specs").rglob("*.yaml"),
        *(REPOSITORY / "pipelines").rglob("*.yaml"),
    }
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^(?: {4,}|# +)(?:\$ +)?|`)spamo-cache +([a-z][^`\n]*)", re.MULTILINE)
"""At the beginning of a line of code or of a comment, or as a code span; never in prose."""
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
ROOT: Any = typer.main.get_command(app)


def commands_in(text: str) -> list[str]:
    """Command lines without the program's name, continuation lines joined, comments cut."""
    found = []
    text = FENCE.sub(lambda block: textwrap.indent(block[0], "    "), text)
    for match in COMMAND.finditer(re.sub(r" *\\\n *", " ", text)):
        line = match[1].splitlines()[0]
        # What stands behind two blanks explains the command.
        command, *_ = re.split(r" {2,}(?![\[-])| +# ", line.strip())
        found.append(command.rstrip(" .,;:"))
    return found


SHOWN = [(page, command) for page in PAGES for command in commands_in(page.read_text("utf-8"))]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after it."""
    command = ROOT
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}


def check(line: str) -> None:
    """A line to type must parse; one with brackets or dots must name real options."""
    if re.search(r"[\[|<]|\.\.\.", line):
        head = re.split(r"[\[|<]|\.\.\.", line)[0].split()
        command, _ = resolve([word for word in head if re.fullmatch(r"[a-z-]+", word)])
        if not hasattr(command, "commands"):
            unknown = set(OPTION.findall(line)) - options_of(command)
            assert not unknown, f"no option {unknown}"
        return
    command, words = resolve(shlex.split(line))
    assert not hasattr(command, "commands"), "a command is missing"
    command.make_context(command.name, words)


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not hasattr(command, "commands"):
        return [path]
    inner = command.commands.items()
    return [leaf for name, sub in inner for leaf in leaves(sub, (*path, name))]


LEAVES = leaves(ROOT)


@pytest.mark.parametrize(
    "line", [line for _, line in SHOWN], ids=[f"{page.name}: {line}" for page, line in SHOWN]
)
def test_a_command_shown_is_a_command_taken(line: str) -> None:
    check(line)


def test_lines_are_found_where_they_stand() -> None:
    text = "Use `spamo-cache train` or\n\n    spamo-cache extract --limit 3   # quick\n"
    assert commands_in(text) == ["train", "extract --limit 3"]
    assert commands_in("```sh\n$ spamo-cache a \\\n  --b\n```\nspamo-cache is") == ["a --b"]
    assert len(SHOWN) > 10


@pytest.mark.parametrize("line", ["extrac", "extract --limt 3", "store", "train [--no-such]"])
def test_a_wrong_line_would_be_seen(line: str) -> None:
    with pytest.raises((AssertionError, Exception), match=r"(?i)no |missing"):
        check(line)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_shows_an_example_that_parses(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    examples = re.findall(r"^ *spamo-cache (.+?) *$", shown.output, re.MULTILINE)
    assert examples, "no example"
    for example in examples:
        assert example.startswith(" ".join(path))
        check(example)


def test_the_readme_shows_a_command_per_stage() -> None:
    shown = {command.split()[0] for page, command in SHOWN if page.name == "README.md"}
    assert {"extract", "train", "evaluate", "report", "reproduce"} <= shown
