"""``spamo-cache analyze``: what a run has learnt beyond its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import spamo_cache as sc
from spamo_cache.cli import display, options, watching

if TYPE_CHECKING:
    from spamo_cache.runs.analyses import AgainstChance, Analysis, Measured, SignEntropy
    from spamo_cache.runs.attributions import ClipAttribution
    from spamo_cache.runs.contributions import Contributions


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

    results: dict[Path, Any]
    show: Callable[[Mapping[Path, Any]], None]
    common: dict[str, Any] = {
        "split": split,
        "store": store,
        "llm": llm,
        "device": device,
        "watcher": watching.watcher(),
    }
    if clips:
        results = {run: sc.attribute(run, clips, root=root, **common) for run in runs}
        show = _show_attributions
    elif all((run / RESULTS).is_file() for run in runs):
        results = {run: shapley.of_experiments(run) for run in runs}
        show = _show_shapley
    else:
        results = {run: sc.analyze(run, **common) for run in runs}
        show = _show
    if json:
        display.as_json({str(run): result for run, result in results.items()})
    else:
        show(results)


def _show(analyses: Mapping[Path, Analysis]) -> None:
    _compare(analyses)
    for run, analysis in analyses.items():
        _examples(run, analysis)


def _compare(analyses: Mapping[Path, Analysis]) -> None:
    """All runs side by side, each with the weights it began with and those it ended with."""
    columns: dict[str, Mapping[str, str]] = {}
    for run, one in analyses.items():
        entropy = one.entropy
        before, after = (entropy.sign_before, entropy.sign) if entropy else (None, None)
        text = entropy.text.nats if entropy else None
        columns[f"{run.name}, before"] = _column(one.before, before, text) if one.before else {}
        columns[f"{run.name}, after"] = column = _column(one.after, after, text)
    rows = [(label, *(values.get(label, "") for values in columns.values())) for label in column]
    display.table(["chance in brackets", *columns], rows)


def _column(state: Measured, sign: SignEntropy | None, text: float | None) -> dict[str, str]:
    """Measures of one state of a run as they are shown."""
    one, tokens = state.alignment, state.tokens
    column = {
        "recall@1": _beside(one.recall_at_1, one.chance_at_1),
        "recall@5": _beside(one.recall_at_5, one.chance_at_5),
        "recall@10": _beside(one.recall_at_10, one.chance_at_10),
        "median rank": f"{one.median_rank:g} of {one.sentences}",
        "modality gap": _number(one.modality_gap),
        "CKA": _number(one.cka),
        "InfoNCE bound, nats": f"{one.infonce.nats:.2f} of at most {one.infonce.ceiling:.2f}",
        "entropy of clips, nats": _number(sign.nats if sign else None),
        "entropy of sentences, nats": _number(text),
        "divergence from sentences, nats": _number(sign.divergence if sign else None),
    }
    for scores, name in ((tokens.gloss, "glosses"), (tokens.text, "the sentence")):
        column[f"{name} covered"] = _score(scores.coverage if scores else None)
        column[f"tokens of {name}"] = _score(scores.precision if scores else None)
    return column


def _score(one: AgainstChance | None) -> str:
    return "-" if one is None else _beside(one.value, one.chance)


def _beside(value: float, chance: float) -> str:
    return f"{value:.2f} ({chance:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _examples(run: Path, analysis: Analysis) -> None:
    """What the sign rows of some clips look like; in brackets what the clip is about."""
    display.line("")
    display.title(f"visual tokens of {run.name}, [those of a gloss or the sentence]")
    for example in analysis.after.tokens.examples:
        rows = [f"[{row.token}]" if row.gloss or row.text else row.token for row in example.rows]
        glosses = " ".join(example.gloss or ()) or "no glosses"
        display.line(f"  {example.clip}: {glosses} · {example.text}")
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
    means = [sum(curve[first:stop]) / (stop - first) for first, stop in pairwise(bounds)]
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
