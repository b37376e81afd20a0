"""What ``analyze`` measured: alignment, visual tokens, attribution over time, contributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from spamo_cache.report import figures
from spamo_cache.report.figures import Row
from spamo_cache.report.formats import metric_name, number, sentence
from spamo_cache.report.runs import RunView
from spamo_cache.report.templating import render
from spamo_cache.report.translations import language_code
from spamo_cache.runs.analyses import Analysis, Entropies, Measured, SignEntropy, WordScores
from spamo_cache.runs.contributions import Contributions


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
_SHOWN_ROWS = 48
"""Rows of a clip whose visual tokens are shown."""


def alignment(run: RunView) -> Markup | None:
    """Measures of alignment as a table and as figures, beside the untrained weights."""
    analysis = run.analysis
    if analysis is None:
        return None
    after, before = _values(analysis), _values_before(analysis)
    columns = {"before": before, "after": after, "by chance": _chances(analysis)}
    lead = (
        f"Where clips of {analysis.split} and their sentences lie to one another in the LLM's "
        "embedding space, pooled as VT-Align pools them. Hollow dots: the same weights before "
        "training; upright strokes: chance."
    )
    missing = analysis.before_missing
    return render(
        "alignment.html",
        place=run.anchor,
        lead=f"{lead} Nothing is known of before: {missing}." if missing else lead,
        panels=_panels(analysis),
        entropy=_entropy_figure(analysis.entropy),
        known=[measure for measure in _MEASURES if measure.key in after],
        # Without the first weights there is nothing before.
        columns={name: values for name, values in columns.items() if values},
        method=_method(analysis),
    )


class AlignmentTable(NamedTuple):
    """Measures of several runs side by side."""

    known: list[Measure]
    columns: dict[str, dict[str, float]]


def compare_alignment(runs: Mapping[str, RunView]) -> AlignmentTable | None:
    """The same measures of several runs; None unless two were analysed."""
    analyses = {name: run.analysis for name, run in runs.items() if run.analysis}
    if len(analyses) < 2:
        return None
    columns = {name: _values(analysis) for name, analysis in analyses.items()}
    known = [one for one in _MEASURES if any(one.key in values for values in columns.values())]
    chance = _chances(next(iter(analyses.values())))
    return AlignmentTable(known, columns | {"by chance": chance})


def _values(analysis: Analysis) -> dict[str, float]:
    """What was measured after training, by the keys of :data:`_MEASURES`."""
    entropy = analysis.entropy
    return _measures(analysis.after, entropy.sign if entropy else None) | (
        {"entropy_text": entropy.text.nats} if entropy else {}
    )


def _values_before(analysis: Analysis) -> dict[str, float]:
    sign = analysis.entropy.sign_before if analysis.entropy else None
    return _measures(analysis.before, sign) if analysis.before else {}


def _measures(state: Measured, sign: SignEntropy | None) -> dict[str, float]:
    one = state.alignment
    values = {
        "recall_at_1": one.recall_at_1,
        "recall_at_5": one.recall_at_5,
        "recall_at_10": one.recall_at_10,
        "median_rank": one.median_rank,
        "own_cosine": one.own_cosine,
        "other_cosine": one.other_cosine,
        "modality_gap": one.modality_gap,
        "cka": one.cka,
        "infonce": one.infonce.nats,
        "entropy": sign.nats if sign else None,
        "divergence": sign.divergence if sign else None,
        "clips": one.clips,
        "sentences": one.sentences,
    }
    return {key: float(value) for key, value in values.items() if value is not None}


def _chances(analysis: Analysis) -> dict[str, float]:
    one = analysis.after.alignment
    return {
        "recall_at_1": one.chance_at_1,
        "recall_at_5": one.chance_at_5,
        "recall_at_10": one.chance_at_10,
    }


def _panels(analysis: Analysis) -> dict[str, Markup]:
    after, before, chances = _values(analysis), _values_before(analysis), _chances(analysis)
    return {
        title: figures.ranges(
            [
                Row(name, after[key], before=before.get(key), chance=chances.get(key))
                for key, name in names.items()
                if key in after
            ],
            title,
            digits=2,
            top=1.0,
        )
        for title, names in _PANELS.items()
    }


def _entropy_figure(entropy: Entropies | None) -> Markup | None:
    if entropy is None:
        return None
    clouds = {
        "sign features, before": entropy.sign_before,
        "sign features, after": entropy.sign,
        "sentences": entropy.text,
    }
    rows = [
        Row(name, one.nats, (one.nats - 1.96 * one.error, one.nats + 1.96 * one.error))
        for name, one in clouds.items()
        if one is not None
    ]
    text = ("the sentences' entropy", entropy.text.nats)
    return figures.ranges(rows, "KDE entropy, nats", beside=text, digits=2)


def _method(analysis: Analysis) -> str:
    """How entropy and mutual information were estimated, and how far off the estimates may be."""
    bound, words = analysis.after.alignment.infonce, []
    if analysis.entropy is not None:
        words.append(f"Entropy: {analysis.entropy.estimator}.")
        if (sign := analysis.entropy.sign) is not None:
            words.append(f"Bandwidth {number(sign.bandwidth, 3)}.")
            words.append(
                f"On a Gaussian of as many points it is too high by {number(sign.bias, 3)}."
            )
    words.append(
        f"InfoNCE: standard error {number(bound.error, 3)}, and never above the "
        f"logarithm of the clips, {number(bound.ceiling, 2)}."
    )
    return " ".join(words)


def tokens(run: RunView) -> Markup | None:
    """Visual tokens: coverage and precision with their chance levels, then examples."""
    if run.analysis is None:
        return None
    after = run.analysis.after.tokens
    before = run.analysis.before.tokens if run.analysis.before else None
    scores = [
        (name, reference, earlier)
        for name, reference, earlier in (
            ("the glosses", after.gloss, before.gloss if before else None),
            ("the translation", after.text, before.text if before else None),
        )
        if reference is not None
    ]
    lead = (
        "Every sign row is named by the LLM token nearest to it. Chance is what the same tokens "
        f"reach when clips are exchanged ({after.permutations} times). {sentence(after.how)}"
    )
    return render(
        "tokens.html",
        place=run.anchor,
        lead=lead,
        panels={
            f"Visual tokens against {name}": _token_figure(now, earlier, name)
            for name, now, earlier in scores
        },
        rows=[
            (f"{words}, {name}", earlier, now)
            for name, now_scores, earlier_scores in scores
            for words, now, earlier in (
                (
                    "coverage: words that some row names",
                    now_scores.coverage,
                    earlier_scores.coverage if earlier_scores else None,
                ),
                (
                    "precision: rows that name a word",
                    now_scores.precision,
                    earlier_scores.precision if earlier_scores else None,
                ),
            )
        ],
        examples=after.examples,
        most=_SHOWN_ROWS,
    )


def _token_figure(after: WordScores, before: WordScores | None, name: str) -> Markup:
    shares = (
        ("coverage", after.coverage, before.coverage if before else None),
        ("precision", after.precision, before.precision if before else None),
    )
    rows = [
        Row(share, now.value, before=earlier.value if earlier else None, chance=now.chance)
        for share, now, earlier in shares
    ]
    return figures.ranges(rows, f"Visual tokens against {name}", digits=2, top=1.0)


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
