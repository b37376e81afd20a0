"""The documentation builds as a site without a broken link, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spamo_cache as sc
from spamo_cache.datasets.registry import CORPORA

REPOSITORY = Path(__file__).parents[2]
FETCHED = re.compile(
    r'<(?:script|img|iframe|source)[^>]* src="?([^" >]+)|<link [^>]*href="?([^" >]+)'
)


@pytest.mark.slow
def test_the_site_is_whole_and_fetches_nothing_from_others(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "Documentation built" in built.stderr  # with --quiet, no warning would be an error
    pages = {page.name: page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")}
    fetched = {next(filter(None, one)) for text in pages.values() for one in FETCHED.findall(text)}
    assert fetched
    assert [address for address in fetched if re.match(r"\w+:|//", address)] == []
    # Markup that only Sphinx knows would be shown as it is.
    assert re.findall(r":\w+:<code>.*", pages["api.html"]) == []
    for page, text in {"api.html": "sc.translate", "commands.html": "--retry-failed"}.items():
        assert text in pages[page]


def test_the_reference_has_every_exported_name() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: \S+\.(\w+)\n +options: \{heading: sc\.(\w+)", page, re.MULTILINE)
    assert all(name == heading for name, heading in shown)
    assert {name for name, _ in shown} == set(sc.__all__)


@pytest.mark.parametrize("name", CORPORA)
def test_the_page_on_corpora_says_what_is_known_of_each(name: str) -> None:
    page = (REPOSITORY / "docs" / "corpora.md").read_text(encoding="utf-8")
    known = CORPORA[name]
    if known.synthetic:
        return
    assert f"spamo-cache extract --dataset {name} --root " in page
    (address,) = re.findall(r"https://\S+", known.terms)
    assert f"<{address}>" in page
    assert ", ".join(f"{count:,}" for count in known.expected.values()) in page
    if known.missing:
        assert ", ".join(map(str, known.missing.values())).replace(", 14", " and 14") in page
