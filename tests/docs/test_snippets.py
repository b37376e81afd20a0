"""Blocks of shell, Python and YAML on the pages mean what they seem to."""

import ast
import inspect
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import spamo_cache as sc
from tests.docs.test_commands_in_docs import PAGES, REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MADE_UP = re.compile(r"[A-Z]{3,}|mine|lab_news")
"""Stands on the pages for something of the reader's own."""


MARKDOWN = [page for page in PAGES if page.suffix == ".md"]


def blocks(language: str) -> list[tuple[Path, str]]:
    fence = re.compile(rf"(?ms)^```{language}\n(.*?)^```$")
    return [(page, block) for page in MARKDOWN for block in fence.findall(page.read_text("utf-8"))]


def test_shell_is_shell_and_names_what_there_is() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    shown = blocks("sh")
    assert len(shown) > 20
    for page, block in shown:
        # What the reader puts there looks like a redirection.
        script = block.replace("<this repository>", "REPOSITORY")
        bash = shutil.which("bash")
        assert bash is not None
        tried = subprocess.run(
            [bash, "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert tried.returncode == 0, f"{page.name}: {tried.stderr}\n{block}"
        assert set(re.findall(r"\bmake ([a-z]+)", script)) <= targets, page.name
        for extras in re.findall(r"\[([a-z,]+)\]['\"]", script):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys(), page.name
        for path in re.findall(r"(?:examples|pipelines|benchmarks|docs)/[\w./-]+", script):
            assert MADE_UP.search(path) or (REPOSITORY / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize(
    ("page", "code"), blocks("python"), ids=[page.name for page, _ in blocks("python")]
)
def test_python_calls_what_there_is(page: Path, code: str) -> None:
    """It compiles, and whatever it calls of `sc` is exported and takes these arguments."""
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "sc"):
            continue
        assert node.attr in sc.__all__, f"sc.{node.attr}"
    for call in ast.walk(ast.parse(code)):
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sc"), attr=name)):
                given = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                inspect.signature(getattr(sc, name)).bind_partial(*call.args, **given)


def test_yaml_is_yaml() -> None:
    shown = blocks("yaml")
    assert shown
    for page, block in shown:
        assert isinstance(yaml.safe_load(block), dict | list), page.name


LINK = re.compile(r'(?:\]\(|(?:src|href)=")([^()\s:#"]+)(?=[)#"])')


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """On GitHub; the site has a test of its own."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        where = (
            page.with_name("tutorial.ipynb") if target == "tutorial.md" else page.parent / target
        )
        assert where.exists(), f"{page.name}: {target}"
