"""``spamo-cache analyze``: what a run has learnt beyond its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spamo_cache.cli import contributions, display, options
from spamo_cache.workflow import resolve

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
    from spamo_cache import analysis
    from spamo_cache.analysis import shapley

    found: dict[Path, Any]
    show: Callable[[Mapping[Path, Found]], None]
    if clips:
        look = partial(
            contributions.attribute,
            named=clips,
            root=root,
            split=split,
            device=device,
            store=store,
            llm=llm,
        )
        found = {run: look(run) for run in runs}
        show = contributions.show_attributions
    elif all((run / shapley.RESULTS).is_file() for run in runs):
        found = {run: shapley.of_experiments(run) for run in runs}
        show = contributions.show_shapley
    else:
        look = partial(
            analysis.analyze,
            split=split,
            device=device,
            roots=resolve.store_roots(store),
            llm=llm,
        )
        found = {run: look(run) for run in runs}
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
