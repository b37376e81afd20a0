"""``results.json`` of a corpus's experiments: which run and which test answer each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter

from spamo_cache import io
from spamo_cache.config import Axis, StrictModel, Variant
from spamo_cache.runs.documents import read_document

RESULTS = "results.json"


class TrialResult(StrictModel):
    """How one seed of a variant ended."""

    seed: int
    path: str | None
    """Folder of the run, as seen from that of the results; None where there is none."""
    evaluation: str | None
    """Name of its scorecard; None where it was not tested."""
    error: str | None
    """Why it came to nothing."""


class VariantResult(Variant):
    """A variant and its seeds."""

    name: str
    runs: Sequence[TrialResult]


class ExperimentResult(StrictModel):
    """An experiment as it was run."""

    name: str
    question: str
    paper: str = ""
    axis: Axis | None = None
    seeds: Sequence[int] = ()
    """Those that every variant was to be run with."""
    variants: Sequence[VariantResult] = Field(min_length=1)


class ExperimentResults(StrictModel):
    """All experiments of a corpus so far."""

    corpus: str
    base: str = ""
    """Digest of the pipeline and the clips that all runs start from."""
    set: Sequence[str] = ()
    """What the user set over the corpus's pipeline, ``key=value``."""
    seeds: Sequence[int] = ()
    """Those of any of the experiments."""
    experiments: Sequence[ExperimentResult]


_RESULTS = TypeAdapter(ExperimentResults)


def write_results(path: Path, document: Mapping[str, Any]) -> None:
    """Write the results, which have to be such."""
    io.write_json(path, ExperimentResults.model_validate(document).model_dump(mode="json"))


def read_results(path: Path) -> ExperimentResults:
    """What :func:`write_results` wrote.

    Raises:
        SpamoError: it is missing, or is something else.
        DamagedError: it is not what was written.
    """
    return read_document(path, _RESULTS, "holds no experiments", "reproduce them again")
