"""Whether two runs differ by more than chance, on the clips that both translated."""

from __future__ import annotations

from pathlib import Path

from spamo_cache.errors import UsageError
from spamo_cache.evaluate.answers import read_table
from spamo_cache.metrics import Difference, difference, measures
from spamo_cache.runs.folder import RunFolder


def compare(run: Path, other: Path, name: str = "test") -> dict[str, Difference]:
    """Metric -> how two evaluated runs differ.

    Args:
        name: of the evaluation, as ``evaluation/<name>.json`` has it.

    Raises:
        UsageError: one of them was not evaluated so, or not on the same references.
    """
    (ours, references), (theirs, expected) = (_answers(path, name) for path in (run, other))
    if references != expected:
        raise UsageError(
            f"scores of {name} are of {len(references)} references here, of {len(expected)} "
            "there, and they are not the same",
            where=other,
            remedy="compare runs of one corpus, text convention and split that drop no clips",
        )
    tokenize = RunFolder(run).pipeline().text.tokenize
    sides = ([side[clip] for clip in references] for side in (ours, theirs))
    one, two = (measures(side, list(references.values()), tokenize=tokenize) for side in sides)
    return {metric: difference(measure, two[metric]) for metric, measure in one.items()}


def _answers(run: Path, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The hypothesis of each clip as it was scored, and its reference."""
    lines = read_table(run, name)
    hypotheses = {line["id"]: line["hypothesis"] for line in lines}
    return hypotheses, {line["id"]: line["reference"] for line in lines}
