"""The command line on a corpus of a few folders of PNG frames and tiny networks."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spamo_cache.cli.main import app

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture
def lab(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in: the working directory, with a home below it."""
    folder = tmp_path / "lab"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPAMO_CACHE", raising=False)
    return folder


@pytest.fixture(scope="session")
def enter() -> Enter:
    """Make a folder the working directory, with a home below it."""

    def into(folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.chdir(folder)
        patch.setenv("SPAMO_HOME", str(folder / "home"))
        patch.delenv("SPAMO_CACHE", raising=False)

    return into


@pytest.fixture(scope="session")
def call() -> Call:
    """Run a command in this process; a bug's exception passes through."""

    def run(*line: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, shlex.split(" ".join(line)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="module")
def with_features(
    made: Path, call: Call, enter: Enter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The lab with its features."""
    folder = tmp_path_factory.mktemp("features")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        call("extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial")
    return folder


@pytest.fixture
def extracted(with_features: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lab with its features, as the working directory."""
    enter(with_features, monkeypatch)
    return with_features
