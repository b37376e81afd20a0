"""A feature cache for gloss-free sign-language translation (SpaMo, arXiv 2408.10593).

What the commands do, from Python; see docs/python-api.md::

    import spamo_cache as sc

    store = sc.open_store("phoenix14t/spatial")
    run = sc.train("phoenix14t", set={"translate.lr": 1e-4})
    sc.evaluate(run).metrics["bleu4"]

Nothing is imported before it is used: importing the package takes milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.datasets.resplit import resplit
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.train.dataset import FeatureDataset
    from spamo_cache.workflow.analyze import analyze, attribute
    from spamo_cache.workflow.compare import compare
    from spamo_cache.workflow.evaluate import evaluate
    from spamo_cache.workflow.extract import extract
    from spamo_cache.workflow.inspect import inspect
    from spamo_cache.workflow.load import (
        list_stores,
        load_corpus,
        load_pipeline,
        load_spec,
        open_store,
    )
    from spamo_cache.workflow.pose import pose
    from spamo_cache.workflow.report import report
    from spamo_cache.workflow.reproduce import reproduce
    from spamo_cache.workflow.score import score
    from spamo_cache.workflow.stores import prune_stores
    from spamo_cache.workflow.train import train
    from spamo_cache.workflow.translate import load_run, translate

try:
    import fcntl as _fcntl  # noqa: F401 - where it is missing, much else of files is not the same
except ModuleNotFoundError:
    raise ImportError(
        "spamo-cache runs on Linux and macOS; on Windows, run it inside WSL "
        "(https://learn.microsoft.com/windows/wsl)"
    ) from None

__version__ = "0.1.0"

__all__ = [
    "FeatureDataset",
    "FeatureStore",
    "Manifest",
    "analyze",
    "attribute",
    "compare",
    "evaluate",
    "extract",
    "inspect",
    "list_stores",
    "load_corpus",
    "load_pipeline",
    "load_run",
    "load_spec",
    "open_store",
    "pose",
    "prune_stores",
    "report",
    "reproduce",
    "resplit",
    "score",
    "train",
    "translate",
]

_ROOMS = {
    "FeatureDataset": "train.dataset",
    "FeatureStore": "store.reader",
    "Manifest": "datasets.manifest",
    "attribute": "workflow.analyze",
    "list_stores": "workflow.load",
    "load_corpus": "workflow.load",
    "load_pipeline": "workflow.load",
    "load_run": "workflow.translate",
    "load_spec": "workflow.load",
    "open_store": "workflow.load",
    "prune_stores": "workflow.stores",
    "resplit": "datasets.resplit",
}
"""Where a name is defined, if not in the module of ``workflow`` that is called like it."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_ROOMS.get(name, f'workflow.{name}')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``train`` the function when the package ``spamo_cache.train`` is imported.

    The import system binds a submodule to its parent's attribute of the same name; four functions
    share their name with the package that does their work.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
