"""Libraries that may be missing: what is said of them, and how they are to be installed."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import spamo_cache as sc
from spamo_cache import extras
from spamo_cache.cli.main import app
from spamo_cache.errors import MissingLibraryError

REPOSITORY = Path(__file__).parents[1]

WHERE = {
    "an index": (None, "pip install 'spamo-cache[extract]'"),
    "a checkout": (
        {"url": "file:///home/me/spamo%20cache", "dir_info": {"editable": True}},
        "pip install -e '/home/me/spamo cache[extract]'",
    ),
    "a wheel": (
        {"url": "file:///tmp/spamo_cache-0.1.0.whl", "archive_info": {}},
        "pip install '/tmp/spamo_cache-0.1.0.whl[extract]'",
    ),
    "git": (
        {"url": "https://lab/x.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
        "pip install 'spamo-cache[extract] @ git+https://lab/x.git@c0ffee'",
    ),
}


@pytest.mark.parametrize("source", WHERE)
def test_an_extra_is_installed_from_where_the_package_came_from(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, command = WHERE[source]

    class Distribution:
        @staticmethod
        def read_text(name: str) -> str | None:
            assert name == "direct_url.json"
            return None if noted is None else json.dumps(noted)

    monkeypatch.setattr(metadata, "distribution", lambda _: Distribution)
    monkeypatch.setattr(extras, "is_there", lambda name: name == "pip")
    assert extras.how_to_install("av") == command
    monkeypatch.setattr(extras, "is_there", lambda _: False)
    assert extras.how_to_install("wandb") == "uv pip install wandb"


@pytest.mark.slow
def test_the_extras_are_those_of_the_package() -> None:
    """Of every platform: decord has no wheels for some, and is asked for by name alone."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    brings = metadata.packages_distributions()
    for extra, modules in extras.EXTRAS.items():
        listed = map(Requirement, project["optional-dependencies"][extra])
        wanted = {found.name.replace("-", "_") for found in listed if found.marker is None}
        brought = {
            module: {name.replace("-", "_") for name in brings[module]}
            for module in modules
            if module in brings or extra != "pose"  # which has an environment of its own
        }
        assert wanted <= set().union(*brought.values())
        assert all(names & wanted for names in brought.values())


def _translate() -> Any:
    return sc.extract(executor="serial")


def _draw() -> Any:
    from spamo_cache.datasets.signed_weather.make import encode

    return encode(None)  # type: ignore[arg-type]


def _read_s3() -> Any:
    return sc.open_store("s3://lab/features/frames/spatial.zarr")


@pytest.mark.parametrize(
    ("module", "work", "told"),
    [
        ("dask", _translate, "extracting features needs dask, which is not installed"),
        ("av", _draw, "drawing the corpus needs av"),
        ("obstore", _read_s3, "a root on S3 needs obstore"),
    ],
)
def test_work_without_a_library_says_which_one(
    module: str, work: Callable[[], Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingLibraryError, match=told) as raised:
        work()
    assert "pip install" in str(raised.value.remedy)


def test_a_command_says_so_wherever_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "av", None)
    told = CliRunner().invoke(app, ["extract"])
    assert told.exit_code == 2
    assert "needs av and dask, which are not installed" in told.stderr
    anywhere = ModuleNotFoundError("No module named 'open_clip.model'", name="open_clip.model")
    assert "open_clip, which is not installed" in str(extras.explained(anywhere))
    assert extras.explained(ModuleNotFoundError("no", name="torch")) is None
    assert extras.explained(ValueError("no")) is None


def test_looking_for_pip_leaves_setuptools_as_it_was() -> None:
    """The compiler of torch imports it; its hook for pip would let that fail ever after."""
    script = "from spamo_cache import extras; print(extras.is_there('pip')); import setuptools"
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    here = any(metadata.distributions(name="pip"))  # environments made by uv have none
    assert (done.returncode, done.stdout) == (0, f"{here}\n"), done.stderr
