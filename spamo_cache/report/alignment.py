"""What ``analyze`` measured: where clips and sentences lie, before and after VT-Align."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spamo_cache.report import figures
from spamo_cache.report.figures import Row
from spamo_cache.report.markup import Child, Markup, join, number, tag
from spamo_cache.report.parts import card, cell, section, table
from spamo_cache.report.runs import Run

_MEASURES = (
    ("recall_at_1", "recall@1: a clip's own sentence is the nearest", 3),
    ("recall_at_5", "recall@5: it is among the five nearest", 3),
    ("recall_at_10", "recall@10: it is among the ten nearest", 3),
    ("median_rank", "median rank of a clip's own sentence", 1),
    ("own_cosine", "mean cosine with the own sentence", 3),
    ("other_cosine", "mean cosine with all other sentences", 3),
    ("modality_gap", "modality gap: distance of the two means", 3),
    ("cka", "centred kernel alignment (linear, debiased)", 3),
    ("infonce", "mutual information, InfoNCE's lower bound (nats)", 2),
    ("entropy", "entropy of sign features (nats)", 2),
    ("entropy_text", "entropy of sentences (nats)", 2),
    ("divergence", "KL divergence of sign from text (nats)", 2),
    ("clips", "clips", 0),
    ("sentences", "distinct sentences", 0),
)
_PANELS = (
    (
        "A clip finds its own sentence",
        (("recall_at_1", "recall@1"), ("recall_at_5", "recall@5"), ("recall_at_10", "recall@10")),
        1.0,
    ),
    (
        "Nearness of clips and sentences",
        (
            ("own_cosine", "cosine, own sentence"),
            ("other_cosine", "cosine, other sentences"),
            ("cka", "kernel alignment"),
            ("modality_gap", "modality gap: smaller is nearer"),
        ),
        1.0,
    ),
)


def alignment(run: Run) -> Markup | None:
    """Measures of alignment as a table and as figures, beside the untrained weights."""
    after = _flat(run.analysis)
    before = _flat(run.analysis.get("before") or {}) | _entropy_before(run.analysis)
    known = [one for one in _MEASURES if after.get(one[0]) is not None]
    if not known:
        return None
    columns = [("before", before), ("after", after), ("by chance", _chances(after))]
    # Without the first weights there is nothing before, and an older analysis knows no chance.
    shown = [(name, values) for name, values in columns if values]
    return section(
        run.anchor,
        "Alignment",
        _lead(run.analysis),
        tag("div", *_panels(before, after), _entropy(run.analysis), class_="grid"),
        _measured(known, shown, "Measures of alignment"),
        _how(run.analysis),
    )


def alignments(runs: Mapping[str, Run]) -> Markup | None:
    """The same measures of several runs side by side; None unless two were analysed."""
    found = {name: _flat(run.analysis) for name, run in runs.items() if run.analysis}
    known = [one for one in _MEASURES if any(one[0] in flat for flat in found.values())]
    if len(found) < 2 or not known:
        return None
    columns = [*found.items(), ("by chance", _chances(next(iter(found.values()))))]
    return join(
        tag("h3", "Where clips and their sentences lie after training"),
        tag(
            "p",
            "In the LLM's embedding space. Entropy, divergence and gap compare clouds and not "
            "pairs: shuffled features come nearer too. Read them beside recall.",
            class_="aside",
        ),
        _measured(known, columns, "Measures of alignment, by variant"),
    )


def _measured(
    known: Sequence[tuple[str, str, int]],
    columns: Sequence[tuple[str, Mapping[str, float]]],
    caption: str,
) -> Markup:
    """A row for each measure that is known."""
    rows = [
        [name, *(cell(values.get(key), digits=digits) for _, values in columns)]
        for key, name, digits in known
    ]
    return table(caption, ["measure", *(name for name, _ in columns)], rows)


def _chances(after: Mapping[str, float]) -> dict[str, float]:
    found = {key.replace("chance", "recall"): v for key, v in after.items() if "chance" in key}
    return {key: value for key, value in found.items() if key in after}


def _lead(found: Mapping[str, Any]) -> str:
    missing = found.get("before_missing")
    without = f" Nothing is known of before: {missing}." if missing else ""
    return (
        f"Where clips of {found.get('split', 'the split')} and their sentences lie to one another "
        "in the LLM's embedding space, pooled as VT-Align pools them. Hollow dots: the same "
        f"weights before training; upright strokes: chance.{without}"
    )


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
    """Measures by name, those of nested documents among them."""
    flat = {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
    bound = found.get("infonce")
    if isinstance(bound, Mapping):
        flat["infonce"] = float(bound["nats"])
    entropy = found.get("entropy")
    if isinstance(entropy, Mapping):
        names = {"entropy": "sign", "entropy_text": "text", "divergence": "divergence"}
        flat |= {k: float(entropy[v]) for k, v in names.items() if entropy.get(v) is not None}
    return flat


def _entropy_before(found: Mapping[str, Any]) -> dict[str, float]:
    entropy = found.get("entropy") or {}
    names = {"entropy": "sign_before", "divergence": "divergence_before"}
    return {k: float(entropy[v]) for k, v in names.items() if entropy.get(v) is not None}


def _panels(before: Mapping[str, float], after: Mapping[str, float]) -> list[Markup]:
    cards = []
    for title, listed, top in _PANELS:
        rows = [
            Row(
                name,
                after[key],
                before=before.get(key),
                chance=_chances(after).get(key),
            )
            for key, name in listed
            if key in after
        ]
        if rows:
            cards.append(card(title, figures.ranges(rows, title, digits=2, top=top)))
    return cards


def _entropy(found: Mapping[str, Any]) -> Markup | None:
    entropy = found.get("entropy")
    if not entropy:
        return None
    errors = entropy.get("error") or {}
    rows = []
    for key, name in (
        ("sign_before", "sign features, before"),
        ("sign", "sign features, after"),
        ("text", "sentences"),
    ):
        value, error = entropy.get(key), errors.get(key)
        if value is not None:
            bounds = None if error is None else (value - 1.96 * error, value + 1.96 * error)
            rows.append(Row(name, float(value), bounds))
    title = "KDE entropy, nats"
    text = ("the sentences' entropy", float(entropy["text"]))
    drawn = figures.ranges(rows, title, beside=text, digits=2)
    note = (
        "Dashed: the sentences; lower by itself is not better. Like the modality gap it compares "
        "clouds and not pairs: shuffled features come nearer too. Read it beside recall."
    )
    return card(title, drawn, tag("p", note, class_="aside"))


def _how(found: Mapping[str, Any]) -> Markup | None:
    entropy = found.get("entropy") or {}
    told: list[Child] = []
    if entropy.get("estimator"):
        told.append(f"Entropy: {entropy['estimator']}. ")
        bias = (entropy.get("bias") or {}).get("sign")
        bandwidth = (entropy.get("bandwidth") or {}).get("sign")
        if bandwidth is not None:
            told.append(f"Bandwidth {number(bandwidth, 3)}. ")
        if bias is not None:
            told.append(f"On a Gaussian of as many points it is too high by {number(bias, 3)}. ")
    bound = found.get("infonce")
    if isinstance(bound, Mapping):
        told.append(
            f"InfoNCE: standard error {number(bound.get('error'), 3)}, and never above the "
            f"logarithm of the clips, {number(bound.get('ceiling'), 2)}."
        )
    return tag("p", join(*told), class_="aside") if told else None
