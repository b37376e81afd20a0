"""``spamo-cache analyze`` by contribution: of a clip's frames, and of the parts of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from spamo_cache.cli import display
from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import stills

if TYPE_CHECKING:
    from spamo_cache.analysis.strips import Shots
    from spamo_cache.datasets.manifest import Clip

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 60


def attribute(
    run: Path,
    named: Sequence[str],
    root: Path | None = None,
    *,
    split: str,
    device: str = "auto",
    store: str | None = None,
    llm: Path | None = None,
) -> dict[str, Any]:
    """Attribute the translations of clips to their frames; see :func:`strips.attribute`.

    Args:
        named: ids of clips; a number that is no id stands for as many of the clips of ``split``
            that the run translates worst and best.
        root: of the raw corpus, where the frames are; else there are none, unless the corpus is
            the embedded one.
        store: root to look for the run's features in before all others.
        llm: folder of the run's LLM, where that has moved.
    """
    from spamo_cache.analysis import strips
    from spamo_cache.runs.folder import RunFolder

    folder = RunFolder(run)
    manifest = folder.sentences()
    place = resolve.at_hand(manifest.corpus, root)
    known = {clip.id for clip in manifest.clips()}
    ids = [
        clip
        for name in named
        for clip in (
            [name] if name in known or not name.isdecimal() else strips.pick(run, int(name), split)
        )
    ]
    film = partial(_film, place)
    roots = resolve.store_roots(store)
    return strips.attribute(
        run, ids, manifest=manifest, film=film, device=device, roots=roots, llm=llm
    )


def _film(root: Path | None, clip: Clip) -> Shots | str:
    from spamo_cache.analysis.strips import SHOTS

    if root is None:
        return "nobody said where the corpus lies (--root)"
    found = stills(root, [clip], SHOTS).get(clip.id)
    return found or "its frames cannot be read, or the extra 'extract' is not installed"


def show_attributions(runs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Print what runs said of clips, and where in them each stream saw it."""
    for run, found in runs.items():
        display.title(f"attribution over time, {run.name}")
        for document in found.values():
            _show_clip(document)


def _show_clip(document: Mapping[str, Any]) -> None:
    display.line("")
    display.title(f"{document['hypothesis']}")
    display.line(f"meant: {document['reference']}  ({document['clip']})")
    for name, stream in document["streams"].items():
        display.line(f"{name:>10} |{_bars(stream['curve'])}| {100 * stream['share']:.0f} %")
    nats, where = document["nats"], f"{document['length']} {document['unit']}s"
    display.line(
        f"{nats['clip'] - nats['baseline']:.1f} nats over {where}, missed by "
        f"{100 * nats['error']:.1f} %; baseline: {document['baseline']}"
    )
    if document["without"]:
        display.line(f"no frames: {document['without']}")


def _bars(curve: Sequence[float]) -> str:
    """What speaks for the translation, as bars of text; what speaks against it is left out."""
    columns = min(_COLUMNS, len(curve))
    bounds = [place * len(curve) // columns for place in range(columns + 1)]
    means = [fmean(curve[first:stop]) for first, stop in pairwise(bounds)]
    most = max(*means, 1e-9)
    return "".join(_BARS[round(max(0.0, mean) / most * (len(_BARS) - 1))] for mean in means)


def show_shapley(folders: Mapping[Path, Mapping[str, Any]]) -> None:
    """Print what each part of the method contributes, and the runs that say so."""
    for found in folders.values():
        rows = [
            (player, value, _points(found["errors"][player]))
            for player, value in found["values"].items()
        ]
        gain = ("together", found["total"] - found["floor"], "")
        display.table(["part", found["metric"], "±"], [*rows, gain], title="Shapley values")
        display.line(f"±: {found['spread']}")
        display.table(
            ["who plays", found["metric"], "run"],
            [
                (" + ".join(one["players"]) or "nobody", one["value"], one["run"])
                for one in found["coalitions"]
            ],
        )


def _points(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f}"
