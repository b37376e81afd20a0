"""The lock, the Makefile and the citation agree with the package."""

import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import spamo_cache

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9A-Za-z.]*", line), line
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


def wanted() -> list[Requirement]:
    # MediaPipe wants an old protobuf: `pose` has an environment of its own, without the lock.
    extras = [group for name, group in PROJECT["optional-dependencies"].items() if name != "pose"]
    return [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]


# What CUDA builds of torch bring along; the build is the machine's choice, so no lock names it.
FOR_GPUS = re.compile(r"nvidia-|cuda-|triton$|pytorch-triton")


def closure() -> set[str]:
    """What the project's requirements need, by the metadata of what is installed."""
    waiting, seen = [(requirement, "") for requirement in wanted()], set()
    while waiting:
        requirement, extra = waiting.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key in seen or FOR_GPUS.match(key[0]):
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        seen.add(key)
        for text in metadata.requires(requirement.name) or []:
            waiting += [(Requirement(text), inner) for inner in ("", *requirement.extras)]
    return {key[0] for key in seen}


def test_the_lock_meets_every_requirement() -> None:
    lock = locked()
    for requirement in wanted():
        version = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


@pytest.mark.slow
def test_the_lock_holds_what_the_requirements_need_and_nothing_else() -> None:
    assert closure() == set(locked())


def test_make_help_explains_every_target() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on this machine")
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert targets
    shown = subprocess.run(
        [make, "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for target in targets[1].split():
        assert re.search(rf"^  make {target} +\S", shown, re.MULTILINE), target


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == spamo_cache.__version__
    assert citation["license"] == PROJECT["license"]
    assert "2408.10593" in str(citation["preferred-citation"]["identifiers"])


def test_the_package_says_where_it_runs_and_where_its_method_is_from() -> None:
    stated = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name}
    assert stated == {"3.11", "3.12", "3.13"}
    assert min(stated) == PROJECT["requires-python"].removeprefix(">=")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert PROJECT["urls"]["Paper (SpaMo)"] in citation


def test_linters_before_a_commit_are_those_of_make_lint() -> None:
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    entries = " ".join(hook["entry"] for hook in repository["hooks"])
    lint = (REPOSITORY / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2]
    for tool in re.findall(r"\$\(BIN\)/(.+)", lint.partition("\n\n")[0]):
        words = tool.removesuffix(" --check")
        assert words in entries, tool


def test_the_pictures_of_the_readme_are_there_small_and_described() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", readme)
    assert {path for _, path in shown} == {"docs/images/report.png", "docs/images/signer.png"}
    for words, path in shown:
        picture = (REPOSITORY / path).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 300_000
        assert len(words) > 30  # PyPI shows these in their place
