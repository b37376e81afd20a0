"""Paths: files shipped with the package, what a user keeps, roots of features."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from spamo_cache.errors import ConfigError

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Of whatever becomes part of a file name: corpora, streams, specs, pipelines, variants."""


def shipped(folder: str) -> Path:
    """A data folder of the project (``cache_specs``, ``pipelines``): checkout or wheel."""
    package = Path(__file__).parent.parent
    for candidate in (package.parent / folder, package / "_data" / folder):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the project's {folder} folder is missing", remedy="reinstall spamo-cache")


def named_file(name: str, folder: str, default: str) -> Path:
    """Resolve a YAML given as a path or as a name in a shipped folder.

    ``named_file("spamo", "cache_specs", ...)`` is ``cache_specs/spamo.yaml``; a name that is a
    folder there means ``<folder>/<default>``.
    """
    given = Path(name)
    if given.suffix in {".yaml", ".yml"}:
        return given if given.exists() else shipped_or_given(given, folder)
    base = shipped(folder)
    for candidate in (base / f"{name}.yaml", base / name / default):
        if candidate.is_file() and candidate.resolve().is_relative_to(base.resolve()):
            return candidate
    known = shipped_names(folder, default)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"nearest is {nearest[0]!r}; " if nearest else ""
    raise ConfigError(
        f"no {folder} entry named {name!r}", remedy=f"{hint}known: {', '.join(known)}, or a path"
    )


def shipped_names(folder: str, default: str = "default.yaml") -> list[str]:
    """What :func:`named_file` knows in a shipped folder."""
    base = shipped(folder)
    folders = {path.parent.name for path in base.glob(f"*/{default}")}
    return sorted({path.stem for path in base.glob("*.yaml")} | folders)


def shipped_or_given(given: Path, folder: str) -> Path:
    """The shipped file that a path names as the checkout has it, else the path as it is."""
    # `pipelines/csl-daily/default.yaml` means the shipped file outside a checkout too.
    if given.parts and given.parts[0] == folder and ".." not in given.parts:
        inside = shipped(folder).joinpath(*given.parts[1:])
        if inside.is_file():
            return inside
    return given


def home() -> Path:
    """Everything this user keeps between runs: ``SPAMO_HOME``, else ``~/.cache/spamo-cache``."""
    return expanded(os.environ.get("SPAMO_HOME") or "~/.cache/spamo-cache")


def expanded(path: str | Path) -> Path:
    """``~`` and ``~name`` written out.

    Raises:
        ConfigError: there is no such user, or this one has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            "the system knows no home folder for this",
            where=path,
            remedy="write the path out, or set HOME; SPAMO_HOME is the folder of spamo-cache",
        ) from None


# Roots are separated by ":", which stands in addresses too: after the scheme and before the port.
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^:/]*)(?::[0-9]+)?"
_ROOT = re.compile(rf"[a-z][a-z0-9+.-]*://{_HOST}[^:]*|[^:]+")


def roots() -> list[str]:
    """Roots of feature stores in search order: ``SPAMO_CACHE``, else one below :func:`home`."""
    return _ROOT.findall(os.environ.get("SPAMO_CACHE", "")) or [str(home() / "features")]
