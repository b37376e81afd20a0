"""Libraries that may be missing: those of the extras, and what single settings ask for."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from spamo_cache.errors import MissingLibraryError

EXTRAS = {
    "extract": (
        *("av", "cryptography", "dask", "dask_jobqueue", "distributed", "open_clip"),
        *("pose_format", "torchvision"),
    ),
    "pose": ("mediapipe",),
    "remote": ("obstore", "urllib3"),
}
"""Extra of this package -> the modules that it brings on every platform."""


def load(module: str, use: str, *, where: str | None = None, instead: str | None = None) -> Any:
    """Import a library that may be missing.

    Args:
        module: of an extra, or of a package of the same name.
        use: what needs it, as ``remote roots``.
        where: the setting that asks for it.
        instead: what else the user can do, as ``take it out of log``.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing([module.partition(".")[0]], use, where=where, instead=instead) from error


def need(*modules: str, use: str, where: str | None = None, instead: str | None = None) -> None:
    """As :func:`load` of several, without the time that imports take."""
    if absent := [module for module in modules if not is_there(module)]:
        raise _missing(absent, use, where=where, instead=instead)


def is_there(module: str) -> bool:
    """Whether a library is installed."""
    # importlib.util.find_spec asks the hook of setuptools too, which after a question for pip can
    # no longer be imported, and with it the compiler of torch.
    if module in sys.modules:
        return sys.modules[module] is not None
    return PathFinder.find_spec(module) is not None


def explained(error: BaseException) -> MissingLibraryError | None:
    """The failed import of an extra's library as an error to act on; None of all others."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    known = any(name in modules for modules in EXTRAS.values())
    return _missing([name], "this command") if known else None


def how_to_install(module: str) -> str:
    """The command that installs a library, or the extra that brings it."""
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    tool = "pip install" if is_there("pip") else "uv pip install"
    return f"{tool} {module if extra is None else _with_extra(extra)}"


def _missing(
    modules: list[str], use: str, *, where: str | None = None, instead: str | None = None
) -> MissingLibraryError:
    listed = " and ".join(filter(None, [", ".join(modules[:-1]), modules[-1]]))
    are = "is" if len(modules) == 1 else "are"
    return MissingLibraryError(
        f"{use} needs {listed}, which {are} not installed",
        where=where,
        remedy=how_to_install(modules[0]) + (f", or {instead}" if instead else ""),
    )


def _with_extra(extra: str) -> str:
    """This package with an extra, from wherever it was installed."""
    came_from = _origin()
    url = came_from.get("url", "")
    if "vcs_info" in came_from:
        vcs = came_from["vcs_info"]
        return shlex.quote(f"spamo-cache[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}")
    if not url.startswith("file:"):
        return shlex.quote(f"spamo-cache[{extra}]" + (f" @ {url}" if url else ""))
    editable = "-e " if came_from.get("dir_info", {}).get("editable") else ""
    return editable + shlex.quote(f"{unquote(urlsplit(url).path)}[{extra}]")


def _origin() -> dict[str, Any]:
    """What the installer noted (PEP 610); nothing of a package from an index."""
    try:
        noted = metadata.distribution("spamo-cache").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        checkout = Path(__file__).resolve().parents[1]
        return {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    found: dict[str, Any] = json.loads(noted) if noted else {}
    return found
