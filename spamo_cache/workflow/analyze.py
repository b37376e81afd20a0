"""What a run has learnt beyond its score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import extras
from spamo_cache.workflow import resolve, stores
from spamo_cache.workflow.frames import stills
from spamo_cache.workflow.resolve import RunLike
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.analysis.attribution_docs import Shots
    from spamo_cache.datasets.manifest import Clip
    from spamo_cache.runs.analyses import Analysis
    from spamo_cache.runs.attributions import ClipAttribution


def analyze(
    run: RunLike,
    *,
    split: str = "test",
    store: str | Path | None = None,
    llm: Path | str | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> Analysis:
    """Entropy of sign features, their alignment with the language model, nearest tokens.

    Args:
        run: a run's folder, or what ``train`` returned.
        split: split to look at.
        store: root to look for the run's features in before those of ``SPAMO_CACHE``.
        llm: folder of the run's LLM, where that has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watcher: follows the work.

    Returns:
        What the run keeps as ``analysis/<split>.json``.
    """
    from spamo_cache import analysis

    path = resolve.run_path(run)
    with watcher.task("analyze", f"{path.name} on {split}"), stores.missing_explained(path):
        return analysis.analyze(
            path,
            split=split,
            device=device,
            roots=resolve.store_roots(store),
            llm=None if llm is None else Path(llm),
        )


def attribute(
    run: RunLike,
    clips: Sequence[str],
    *,
    split: str = "test",
    root: Path | str | None = None,
    store: str | Path | None = None,
    llm: Path | str | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> dict[str, ClipAttribution]:
    """Attribute the translations of clips to their frames; see ``attribution_docs.attribute``.

    Args:
        run: a run's folder, or what ``train`` returned.
        clips: ids of clips; a number that is no id stands for as many of the clips of ``split``
            that the run translates worst and best.
        root: folder of the raw corpus, where the frames are; without it there are none, unless the
            corpus is the bundled one.
        store: root to look for the run's features in before those of ``SPAMO_CACHE``.
        llm: folder of the run's LLM, where that has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watcher: follows the work.

    Returns:
        Clip -> what the run keeps of it below ``analysis/attribution``.
    """
    from spamo_cache.analysis import attribution_docs
    from spamo_cache.runs.folder import RunFolder

    path = resolve.run_path(run)
    manifest = RunFolder(path).sentences()
    raw = stores.at_hand(manifest.corpus, root)
    known = {clip.id for clip in manifest.clips()}
    ids = [
        clip
        for name in clips
        for clip in (
            [name]
            if name in known or not name.isdecimal()
            else attribution_docs.pick(path, int(name), split)
        )
    ]
    with (
        watcher.task("analyze", path.name, "clips") as advance,
        stores.missing_explained(path),
    ):
        return attribution_docs.attribute(
            path,
            ids,
            manifest=manifest,
            film=partial(_film, raw),
            device=device,
            roots=resolve.store_roots(store),
            llm=None if llm is None else Path(llm),
            progress=advance,
        )


def _film(root: Path | None, clip: Clip) -> Shots | str:
    from spamo_cache.analysis.attribution_docs import SHOTS

    if root is None:
        return "the folder of the raw corpus is not known (--root)"
    if not extras.is_there("av"):
        return f"reading frames needs av, which is not installed ({extras.how_to_install('av')})"
    return stills(root, [clip], SHOTS).get(clip.id) or "its frames cannot be read"
