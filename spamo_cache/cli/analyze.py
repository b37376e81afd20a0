"""``spamo-cache analyze``: what a run has learnt beyond its score."""

from __future__ import annotations

from spamo_cache.cli import display, options


def analyze(runs: options.Runs, json: options.Json = False) -> None:
    """Entropy of sign features, their alignment with the language model, nearest tokens.

    Example:

        spamo-cache analyze runs/signed-weather/default
    """
    from spamo_cache import analysis

    found = {str(run): analysis.analyze(run) for run in runs}
    if json:
        display.as_json(found)
        return
    for run, numbers in found.items():
        display.pairs(numbers, title=run)
