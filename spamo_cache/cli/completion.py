"""What shells offer at the Tab key: corpora, specs, pipelines, experiments, stores and runs.

Somebody waits: nothing that takes long is imported, and no server is asked. Where nothing fits,
shells offer files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from spamo_cache import config
from spamo_cache.workflow import DRAWN

Complete = Callable[[str], list[str]]

KNOWN_CORPORA = (
    *DRAWN,
    "phoenix14t",
    "csl-daily",
    "csl-news",
    "how2sign",
    "openasl",
    "youtube-asl",
)
"""The names in :mod:`datasets.registry`, which takes half a second to import."""


def _complete(offered: Callable[[], Iterable[str]], *, several: bool = False) -> Complete:
    """Offer the names that go on from what is typed, with ``several`` from its last comma on."""

    def complete(incomplete: str) -> list[str]:
        typed, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        try:
            names = {name for name in offered() if name.startswith(last)} - {*typed.split(",")}
        except Exception:  # noqa: BLE001 (a traceback in a prompt helps nobody)
            return []
        return sorted(f"{typed}{comma}{name}" for name in names)

    return complete


def _stores() -> list[tuple[str, str]]:
    """``CORPUS/STREAM`` and the same with ``-FINGERPRINT``, of the stores in local roots."""
    from spamo_cache.store.roots import name_of, stores_in

    local = [root for root in config.roots() if "://" not in root]
    names = {name_of(path) for root in local for path in stores_in(root)}
    return [(name.rpartition("-")[0], name) for name in sorted(names)]


def _store_names() -> list[str]:
    found = _stores()
    count = Counter(short for short, _ in found)
    return [short if count[short] == 1 else full for short, full in found]


def _features() -> list[str]:
    """``STREAM=STORE`` of each store."""
    return [f"{re.split('[/-]', name)[1]}={name}" for name in _store_names()]


def _corpora() -> set[str]:
    noted = config.home() / "extracted"
    extracted = {path.name for path in noted.iterdir()} if noted.is_dir() else set()
    return {*KNOWN_CORPORA, *extracted, *(short.partition("/")[0] for short, _ in _stores())}


def _runs() -> list[str]:
    from spamo_cache.workflow.resolve import runs_here

    return [str(run) for run in runs_here()]


def _yaml_and(folder: str, default: str) -> list[str]:
    """Names in a shipped folder, and the YAML files of this one."""
    return [*config.shipped_names(folder, default), *map(str, Path().glob("*.yaml"))]


corpora = _complete(_corpora)
stores = _complete(_store_names)
features = _complete(_features)
experiments = _complete(lambda: config.shipped_names("pipelines/experiments"), several=True)
runs = _complete(_runs)
columns = _complete(lambda: ("signer", "length", "seen-sentence", "seen-signer"), several=True)
resplits = _complete(lambda: ("signer", "sentence", "source"))
specs = _complete(lambda: _yaml_and("cache_specs", "spec.yaml"))
pipelines = _complete(lambda: _yaml_and("pipelines", "default.yaml"))
