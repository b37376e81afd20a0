"""What each part of the method contributes: Shapley values (1953) over an experiment's runs.

A part's value is its mean gain over all orders in which the parts can join, so values add up to
what all of them gain together, and a part that never changes anything gets 0. Switching one part
off alone would count twice, or not at all, what parts have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial, hypot
from pathlib import Path
from statistics import fmean, stdev

from spamo_cache.errors import UsageError
from spamo_cache.runs.contributions import DOCUMENT, CoalitionWorth, Contributions
from spamo_cache.runs.documents import write_document
from spamo_cache.runs.records import card_file, read_card
from spamo_cache.runs.results import RESULTS, ExperimentResults, TrialResult, read_results

Coalition = frozenset[str]

PLAYERS = ("SE", "ME", "VT-Align")
"""Spatial encoder, motion encoder, alignment of signs with text."""
RUNS: Mapping[Coalition, str] = {
    frozenset(): "streams/floor",
    frozenset({"VT-Align"}): "streams/floor",
    frozenset({"SE"}): "streams/spatial-no-align",
    frozenset({"ME"}): "streams/motion-no-align",
    frozenset({"SE", "ME"}): "align/none",
    frozenset({"SE", "VT-Align"}): "streams/spatial",
    frozenset({"ME", "VT-Align"}): "streams/motion",
    frozenset(PLAYERS): "streams/both",
}
"""Who plays -> the experiment and variant that stands for it."""
_STREAMS = frozenset({"SE", "ME"})
NOTE = "no stream is read: the floor, trained and tested on other clips' features"


@dataclass(frozen=True, slots=True)
class Score:
    """A run's metric and half the width of its 95 % bootstrap interval."""

    value: float
    half: float | None


def coalitions(players: Sequence[str]) -> list[Coalition]:
    """All sets of players, from nobody to everybody."""
    sizes = range(len(players) + 1)
    return [frozenset(some) for size in sizes for some in combinations(players, size)]


def shapley(players: Sequence[str], worth: Mapping[Coalition, float]) -> dict[str, float]:
    """Player -> its exact Shapley value.

    Args:
        worth: of every coalition, nobody among them; 2^n of them, so n is small.
    """
    return {
        player: sum(share * worth[some] for some, share in _shares(player, players).items())
        for player in players
    }


def _shares(player: str, players: Sequence[str]) -> dict[Coalition, float]:
    """The weight of every coalition's worth in a player's value; they sum to 0."""
    count = len(players)
    found = {}
    for some in coalitions([one for one in players if one != player]):
        share = factorial(len(some)) * factorial(count - len(some) - 1) / factorial(count)
        found[some], found[some | {player}] = -share, share
    return found


def of_experiments(folder: Path, metric: str = "bleu4") -> Contributions:
    """Shapley values of the parts of SpaMo from ``<folder>/results.json``.

    Keeps what it returns as ``<folder>/shapley.json``.

    Args:
        folder: of a corpus's experiments, of which ``streams`` and ``align`` are needed.
        metric: of the scorecards.

    Raises:
        UsageError: no results there, or there is no seed with all runs; the missing are named.
    """
    results = folder / RESULTS
    if not results.is_file():
        raise UsageError("holds no results of experiments", where=folder)
    scores, missing = _scores(folder, read_results(results), metric)
    whole = [seed for seed, known in scores.items() if seed not in missing]
    if not whole:
        fewest = min(missing.values(), key=len, default=["all of them"])
        raise UsageError(
            f"runs are missing: {'; '.join(fewest)}",
            where=results,
            remedy="run spamo-cache reproduce CORPUS --all --only streams,align",
        )
    contributions = _divided(metric, {seed: scores[seed] for seed in whole})
    write_document(folder / DOCUMENT, contributions)
    return contributions


def _divided(metric: str, by_seed: Mapping[int, Mapping[str, Score]]) -> Contributions:
    """What the runs of some seeds come to; each holds the scores of :data:`RUNS`' variants."""
    seeds = list(by_seed.values())
    worth = {some: [scores[run].value for scores in seeds] for some, run in RUNS.items()}
    mean = {some: fmean(values) for some, values in worth.items()}
    if len(seeds) > 1:
        spread = f"standard deviation over {len(seeds)} seeds"
        each = [
            shapley(PLAYERS, {some: worth[some][k] for some in worth}) for k in range(len(seeds))
        ]
        errors: dict[str, float | None] = {
            player: stdev(one[player] for one in each) for player in PLAYERS
        }
        halves: dict[str, float | None] = {
            run: stdev(scores[run].value for scores in seeds) for run in RUNS.values()
        }
    else:
        spread = "95 % intervals of one seed, its runs' bootstrap intervals taken as independent"
        halves = {run: seeds[0][run].half for run in RUNS.values()}
        errors = {player: _propagated(player, halves) for player in PLAYERS}
    return Contributions(
        metric=metric,
        seeds=list(by_seed),
        players=list(PLAYERS),
        values=shapley(PLAYERS, mean),
        errors=errors,
        spread=spread,
        floor=mean[frozenset()],
        total=mean[frozenset(PLAYERS)],
        coalitions=[
            CoalitionWorth(
                players=[player for player in PLAYERS if player in some],
                value=mean[some],
                error=halves[RUNS[some]],
                run=RUNS[some],
                note=None if some & _STREAMS else NOTE,
            )
            for some in coalitions(PLAYERS)
        ],
    )


def _propagated(player: str, halves: Mapping[str, float | None]) -> float | None:
    """Half a player's interval; None where a run's is not known."""
    # By run, not by coalition: the floor stands for two of them, and would be counted twice.
    shares = dict.fromkeys(RUNS.values(), 0.0)
    for some, share in _shares(player, PLAYERS).items():
        shares[RUNS[some]] += share
    parts = [(share, halves[run]) for run, share in shares.items()]
    known = [share * half for share, half in parts if half is not None]
    return hypot(*known) if len(known) == len(parts) else None


def _scores(
    folder: Path, results: ExperimentResults, metric: str
) -> tuple[dict[int, dict[str, Score]], dict[int, list[str]]]:
    """Seed -> variant -> score; and seed -> what it lacks and why."""
    listed = {
        (f"{experiment.name}/{variant.name}", run.seed): run
        for experiment in results.experiments
        for variant in experiment.variants
        for run in variant.runs
    }
    seeds = results.seeds
    found: dict[int, dict[str, Score]] = {seed: {} for seed in seeds}
    missing: dict[int, list[str]] = {}
    for seed in seeds:
        for variant in dict.fromkeys(RUNS.values()):
            score = _score(folder, listed.get((variant, seed)), metric)
            if isinstance(score, Score):
                found[seed][variant] = score
            else:
                missing.setdefault(seed, []).append(f"{variant} of seed {seed}: {score}")
    return found, missing


def _score(folder: Path, run: TrialResult | None, metric: str) -> Score | str:
    """What a run scores, or why it has no score."""
    if run is None:
        return "not among the results"
    if run.error or not run.evaluation or run.path is None:
        return run.error or "not tested"
    card = card_file(folder / run.path, run.evaluation)
    if not card.is_file():
        return "not tested"
    known = read_card(card)
    if metric not in known.metrics:
        return f"its test has no {metric}"
    bounds = known.intervals.get(metric)
    return Score(known.metrics[metric], None if bounds is None else (bounds[1] - bounds[0]) / 2)
