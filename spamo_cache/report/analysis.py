"""What ``analyze`` measured: alignment, visual tokens, attribution over time, contributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from spamo_cache.report import figures
from spamo_cache.report.figures import Row
from spamo_cache.report.formats import metric_name, number, sentence
from spamo_cache.report.runs import RunView
from spamo_cache.report.templating import render
from spamo_cache.report.translations import language_code
from spamo_cache.runs.contributions import Contributions

Document = Mapping[str, Any]


class Measure(NamedTuple):
    """A row of the table of alignment."""

    key: str
    name: str
    digits: int = 3


_MEASURES = (
    Measure("recall_at_1", "recall@1: a clip's own sentence is the nearest"),
    Measure("recall_at_5", "recall@5: it is among the five nearest"),
    Measure("recall_at_10", "recall@10: it is among the ten nearest"),
    Measure("median_rank", "median rank of a clip's own sentence", 1),
    Measure("own_cosine", "mean cosine with the own sentence"),
    Measure("other_cosine", "mean cosine with all other sentences"),
    Measure("modality_gap", "modality gap: distance of the two means"),
    Measure("cka", "centred kernel alignment (linear, debiased)"),
    Measure("infonce", "mutual information, InfoNCE's lower bound (nats)", 2),
    Measure("entropy", "entropy of sign features (nats)", 2),
    Measure("entropy_text", "entropy of sentences (nats)", 2),
    Measure("divergence", "KL divergence of sign from text (nats)", 2),
    Measure("clips", "clips", 0),
    Measure("sentences", "distinct sentences", 0),
)
_PANELS = {
    "A clip finds its own sentence": {
        "recall_at_1": "recall@1",
        "recall_at_5": "recall@5",
        "recall_at_10": "recall@10",
    },
    "Nearness of clips and sentences": {
        "own_cosine": "cosine, own sentence",
        "other_cosine": "cosine, other sentences",
        "cka": "kernel alignment",
        "modality_gap": "modality gap: smaller is nearer",
    },
}
_AGAINST = {"gloss": "the glosses", "text": "the translation"}
_SHARES = {
    "coverage": "coverage: words that some row names",
    "precision": "precision: rows that name a word",
}
_SHOWN_ROWS = 48
"""Rows of a clip whose visual tokens are shown."""


def alignment(run: RunView) -> Markup | None:
    """Measures of alignment as a table and as figures, beside the untrained weights."""
    after = _measures(run.analysis)
    before = _measures(run.analysis.get("before") or {}) | _entropy_before(run.analysis)
    known = [measure for measure in _MEASURES if after.get(measure.key) is not None]
    if not known:
        return None
    columns = {"before": before, "after": after, "by chance": _chances(after)}
    missing = run.analysis.get("before_missing")
    lead = (
        f"Where clips of {run.analysis.get('split', 'the split')} and their sentences lie to one "
        "another in the LLM's embedding space, pooled as VT-Align pools them. Hollow dots: the "
        "same weights before training; upright strokes: chance."
    )
    return render(
        "alignment.html",
        place=run.anchor,
        lead=f"{lead} Nothing is known of before: {missing}." if missing else lead,
        panels=_panels(before, after),
        entropy=_entropy_figure(run.analysis.get("entropy") or {}),
        known=known,
        # Without the first weights there is nothing before, and an older analysis knows no chance.
        columns={name: values for name, values in columns.items() if values},
        method=_method(run.analysis),
    )


class AlignmentTable(NamedTuple):
    """Measures of several runs side by side."""

    known: list[Measure]
    columns: dict[str, dict[str, float]]


def compare_alignment(runs: Mapping[str, RunView]) -> AlignmentTable | None:
    """The same measures of several runs; None unless two were analysed."""
    columns = {name: _measures(run.analysis) for name, run in runs.items() if run.analysis}
    known = [one for one in _MEASURES if any(one.key in values for values in columns.values())]
    if len(columns) < 2 or not known:
        return None
    return AlignmentTable(known, columns | {"by chance": _chances(next(iter(columns.values())))})


def _measures(document: Document) -> dict[str, float]:
    """Measures by name, those of nested documents among them."""
    values = {key: float(v) for key, v in document.items() if isinstance(v, int | float)}
    if isinstance(document.get("infonce"), Mapping):
        values["infonce"] = float(document["infonce"]["nats"])
    names = {"entropy": "sign", "entropy_text": "text", "divergence": "divergence"}
    return values | _entropies(document, names)


def _entropy_before(document: Document) -> dict[str, float]:
    return _entropies(document, {"entropy": "sign_before", "divergence": "divergence_before"})


def _entropies(document: Document, names: Mapping[str, str]) -> dict[str, float]:
    entropy = document.get("entropy")
    if not isinstance(entropy, Mapping):
        return {}
    return {key: float(entropy[v]) for key, v in names.items() if entropy.get(v) is not None}


def _chances(after: Mapping[str, float]) -> dict[str, float]:
    chances = {key.replace("chance", "recall"): v for key, v in after.items() if "chance" in key}
    return {key: value for key, value in chances.items() if key in after}


def _panels(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Markup]:
    panels, chances = {}, _chances(after)
    for title, names in _PANELS.items():
        rows = [
            Row(name, after[key], before=before.get(key), chance=chances.get(key))
            for key, name in names.items()
            if key in after
        ]
        if rows:
            panels[title] = figures.ranges(rows, title, digits=2, top=1.0)
    return panels


def _entropy_figure(entropy: Document) -> Markup | None:
    if not entropy:
        return None
    errors, rows = entropy.get("error") or {}, []
    names = {"sign_before": "sign features, before", "sign": "sign features, after"}
    for key, name in (names | {"text": "sentences"}).items():
        value, error = entropy.get(key), errors.get(key)
        if value is not None:
            bounds = None if error is None else (value - 1.96 * error, value + 1.96 * error)
            rows.append(Row(name, float(value), bounds))
    text = ("the sentences' entropy", float(entropy["text"]))
    return figures.ranges(rows, "KDE entropy, nats", beside=text, digits=2)


def _method(document: Document) -> str:
    """How entropy and mutual information were estimated, and how far off the estimates may be."""
    entropy, bound, words = document.get("entropy") or {}, document.get("infonce"), []
    if entropy.get("estimator"):
        words.append(f"Entropy: {entropy['estimator']}.")
        bandwidth = (entropy.get("bandwidth") or {}).get("sign")
        bias = (entropy.get("bias") or {}).get("sign")
        if bandwidth is not None:
            words.append(f"Bandwidth {number(bandwidth, 3)}.")
        if bias is not None:
            words.append(f"On a Gaussian of as many points it is too high by {number(bias, 3)}.")
    if isinstance(bound, Mapping):
        words.append(
            f"InfoNCE: standard error {number(bound.get('error'), 3)}, and never above the "
            f"logarithm of the clips, {number(bound.get('ceiling'), 2)}."
        )
    return " ".join(words)


def tokens(run: RunView) -> Markup | None:
    """Visual tokens: coverage and precision with their chance levels, then examples."""
    after = run.analysis.get("tokens")
    if not after:
        return None
    before = (run.analysis.get("before") or {}).get("tokens") or {}
    against = {key: name for key, name in _AGAINST.items() if after.get(key)}
    drawn = ((name, _token_figure(after, before, key, name)) for key, name in against.items())
    lead = (
        "Every sign row is named by the LLM token nearest to it. Chance is what the same tokens "
        f"reach when clips are exchanged ({after.get('permutations', '–')} times). "
        f"{sentence(after.get('how'))}"
    )
    return render(
        "tokens.html",
        place=run.anchor,
        lead=lead,
        panels={f"Visual tokens against {name}": svg for name, svg in drawn if svg is not None},
        rows=[
            (f"{words}, {name}", _share_values(after, before, key, share))
            for key, name in against.items()
            for share, words in _SHARES.items()
        ],
        examples=[_token_example(one) for one in after.get("examples") or ()],
    )


def _share_values(after: Document, before: Document, key: str, share: str) -> list[float | None]:
    """Before, after, by chance, spread of chance, p."""
    one = after[key].get(share) or {}
    earlier = ((before.get(key) or {}).get(share) or {}).get("value")
    return [earlier, *(one.get(name) for name in ("value", "chance", "spread", "p"))]


def _token_figure(after: Document, before: Document, key: str, name: str) -> Markup | None:
    rows = []
    for share in _SHARES:
        earlier, value, chance, *_ = _share_values(after, before, key, share)
        if value is not None:
            rows.append(Row(share, value, before=earlier, chance=chance))
    title = f"Visual tokens against {name}"
    return figures.ranges(rows, title, digits=2, top=1.0) if rows else None


def _token_example(document: Document) -> dict[str, Any]:
    rows = list(document.get("rows") or ())
    return {
        "clip": document.get("clip", ""),
        "gloss": " ".join(map(str, document.get("gloss") or ())),
        "text": document.get("text", ""),
        "shown": [
            {
                "token": row.get("token", ""),
                "cosine": row.get("cosine"),
                "belongs": "a gloss" if row.get("gloss") else "a word" if row.get("text") else "",
            }
            for row in rows[:_SHOWN_ROWS]
        ],
        "more": max(0, len(rows) - _SHOWN_ROWS),
    }


def attributions(run: RunView) -> Markup | None:
    """Clips with what each of their moments gave to the translation."""
    if not run.attributions:
        return None
    drawn = []
    for one in run.attributions:
        clip = one.document
        title = f"Attribution for clip {clip.clip}"
        curves = {name: stream.curve for name, stream in clip.streams.items()}
        words = [(word.word, word.curve) for word in clip.words]
        drawing = figures.filmstrip(one.shots, curves, words, title=title)
        shares = [f"{name} {100 * stream.share:.0f} %" for name, stream in clip.streams.items()]
        missed = f"{', '.join(shares)}; the sum misses {100 * clip.nats.error:.1f} %"
        drawn.append((clip, title, drawing, missed))
    return render(
        "attribution.html",
        place=run.anchor,
        method=run.attributions[0].document.method,
        language=language_code(run),
        drawn=drawn,
    )


def shapley(contributions: Contributions | None) -> Markup | None:
    """Shapley values of the players, and the coalitions behind them."""
    if contributions is None:
        return None
    metric = metric_name(contributions.metric)
    title = f"Shapley values in points of {metric}"
    rows = [
        (player, value, contributions.errors.get(player))
        for player, value in contributions.values.items()
    ]
    lead = (
        f"How the way from nothing ({number(contributions.floor, 1)} {metric}) to everything "
        f"({number(contributions.total, 1)}) is divided: each player's mean gain over all orders "
        f"in which they can join. {sentence(contributions.spread)}"
    )
    return render(
        "shapley.html",
        lead=lead,
        title=title,
        metric=metric,
        drawing=figures.balance(rows, title),
        coalitions=contributions.coalitions,
    )
