"""``spamo-cache analyze``: what a run has learnt beyond its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

import spamo_cache as sc
from spamo_cache.cli import display, options

if TYPE_CHECKING:
    from spamo_cache.runs.attributions import ClipAttribution
    from spamo_cache.runs.contributions import Contributions

Found = Mapping[str, Any]


def analyze(
    runs: options.Runs,
    *,
    split: Annotated[str, typer.Option("--split", help="Split to look at.")] = "test",
    clips: Annotated[
        list[str] | None,
        typer.Option(
            "--clip",
            metavar="ID",
            help="Attribute its translation to its frames; a number: so many, worst and best.",
        ),
    ] = None,
    root: options.Root = None,
    store: options.Search = None,
    llm: options.LLM = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Entropy of sign features, their alignment with the language model, nearest tokens.

    With --clip, which frames of a clip speak for its translation. RUN may be the folder of a
    corpus's experiments: then what SE, ME and VT-Align contribute, as Shapley values.

    Example:

        spamo-cache analyze runs/signed-weather/default
    """
    from spamo_cache.analysis import shapley
    from spamo_cache.runs.results import RESULTS

    found: dict[Path, Any]
    show: Callable[[Mapping[Path, Any]], None]
    common: dict[str, Any] = {"split": split, "store": store, "llm": llm, "device": device}
    if clips:
        found = {run: sc.attribute(run, clips, root=root, **common) for run in runs}
        show = _show_attributions
    elif all((run / RESULTS).is_file() for run in runs):
        found = {run: shapley.of_experiments(run) for run in runs}
        show = _show_shapley
    else:
        found = {run: sc.analyze(run, **common) for run in runs}
        show = _show
    if json:
        display.as_json({str(run): numbers for run, numbers in found.items()})
    else:
        show(found)


def _show(found: Mapping[Path, Found]) -> None:
    _compare(found)
    for run, numbers in found.items():
        _examples(run, numbers)


def _compare(found: Mapping[Path, Found]) -> None:
    """All runs side by side, each with the weights it began with and those it ended with."""
    columns: dict[str, Mapping[str, str]] = {}
    for run, numbers in found.items():
        before = numbers["before"]
        columns[f"{run.name}, before"] = _column(before, numbers, "_before") if before else {}
        columns[f"{run.name}, after"] = _column(numbers, numbers, "")
    labels = list(_column(next(iter(found.values())), next(iter(found.values())), ""))
    rows = [(label, *(column.get(label, "") for column in columns.values())) for label in labels]
    display.table(["chance in brackets", *columns], rows)


def _column(state: Found, run: Found, tail: str) -> dict[str, str]:
    """Measures of one state of a run as they are shown; ``tail`` names it in the entropies."""
    entropy = run["entropy"] or {}
    told, tokens = state["infonce"], state["tokens"]
    column = {
        f"recall@{k}": _beside(state[f"recall_at_{k}"], state[f"chance_at_{k}"]) for k in (1, 5, 10)
    }
    column |= {
        "median rank": f"{state['median_rank']:g} of {state['sentences']}",
        "modality gap": _number(state["modality_gap"]),
        "CKA": _number(state["cka"]),
        "InfoNCE bound, nats": f"{told['nats']:.2f} of at most {told['ceiling']:.2f}",
        "entropy of clips, nats": _number(entropy.get(f"sign{tail}")),
        "entropy of sentences, nats": _number(entropy.get("text")),
        "divergence from sentences, nats": _number(entropy.get(f"divergence{tail}")),
    }
    for key, name in (("gloss", "glosses"), ("text", "the sentence")):
        for measure, label in (("coverage", f"{name} covered"), ("precision", f"tokens of {name}")):
            score = tokens[key][measure] if tokens[key] else {"value": None, "chance": None}
            column[label] = _beside(score["value"], score["chance"])
    return column


def _beside(value: float | None, chance: float | None) -> str:
    return _number(value) + ("" if chance is None else f" ({chance:.2f})")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _examples(run: Path, numbers: Found) -> None:
    """What the sign rows of some clips look like; in brackets what the clip is about."""
    display.line("")
    display.title(f"visual tokens of {run.name}, [those of a gloss or the sentence]")
    for example in numbers["tokens"]["examples"]:
        rows = [
            f"[{row['token']}]" if row["gloss"] or row["text"] else row["token"]
            for row in example["rows"]
        ]
        said = " ".join(example["gloss"] or ()) or "no glosses"
        display.line(f"  {example['clip']}: {said} · {example['text']}")
        display.line(f"    {' '.join(rows)}")


_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 60


def _show_attributions(runs: Mapping[Path, Mapping[str, ClipAttribution]]) -> None:
    """Print what runs said of clips, and where in them each stream saw it."""
    for run, clips in runs.items():
        display.title(f"attribution over time, {run.name}")
        for clip in clips.values():
            _show_clip(clip)


def _show_clip(clip: ClipAttribution) -> None:
    display.line("")
    display.title(clip.hypothesis)
    display.line(f"meant: {clip.reference}  ({clip.clip})")
    for name, stream in clip.streams.items():
        display.line(f"{name:>10} |{_bars(stream.curve)}| {100 * stream.share:.0f} %")
    display.line(
        f"{clip.nats.clip - clip.nats.baseline:.1f} nats over {clip.length} {clip.unit}s, "
        f"missed by {100 * clip.nats.error:.1f} %; baseline: {clip.baseline}"
    )
    if clip.without:
        display.line(f"no frames: {clip.without}")


def _bars(curve: Sequence[float]) -> str:
    """What speaks for the translation, as bars of text; what speaks against it is left out."""
    columns = min(_COLUMNS, len(curve))
    bounds = [place * len(curve) // columns for place in range(columns + 1)]
    means = [fmean(curve[first:stop]) for first, stop in pairwise(bounds)]
    most = max(*means, 1e-9)
    return "".join(_BARS[round(max(0.0, mean) / most * (len(_BARS) - 1))] for mean in means)


def _show_shapley(folders: Mapping[Path, Contributions]) -> None:
    """Print what each part of the method contributes, and the runs that say so."""
    for found in folders.values():
        rows = [
            (player, value, _points(found.errors[player])) for player, value in found.values.items()
        ]
        gain = ("together", found.total - found.floor, "")
        display.table(["part", found.metric, "±"], [*rows, gain], title="Shapley values")
        display.line(f"±: {found.spread}")
        display.table(
            ["who plays", found.metric, "run"],
            [(" + ".join(one.players) or "nobody", one.value, one.run) for one in found.coalitions],
        )


def _points(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f}"
