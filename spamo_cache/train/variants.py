"""Several experiments from one pipeline: seeds and small sweeps, and what they come to."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from spamo_cache.config import Pipeline, parse


def variants(pipeline: Pipeline) -> list[Pipeline]:
    """A pipeline for each combination of ``pipeline.sweep``; without a sweep the pipeline itself.

    Their names say the values: ``default-lr-0.0001``.

    Raises:
        ConfigError: the sweep has an unknown key, or a value that does not fit.
    """
    single = pipeline.model_dump(mode="json") | {"sweep": {}}
    found = []
    for values in product(*pipeline.sweep.values()):
        chosen = dict(zip(pipeline.sweep, values, strict=True))
        document, name = single, pipeline.name
        for key, value in chosen.items():
            document = _with(document, key.split("."), value)
            name += f"-{key.rpartition('.')[2]}-{_spelt(value)}"
        found.append(parse(document | {"name": name}, Pipeline, where="sweep"))
    return found


def seeded(pipeline: Pipeline, count: int) -> list[Pipeline]:
    """The pipeline under ``count`` seeds from its own on, which their names say: ``default-2``."""
    return [
        pipeline.model_copy(update={"name": f"{pipeline.name}-{seed}", "seed": seed})
        for seed in range(pipeline.seed, pipeline.seed + count)
    ]


@dataclass(frozen=True, slots=True)
class Spread:
    """What one experiment came to under several seeds.

    Attributes:
        mean: of the best dev BLEU.
        deviation: standard deviation of a sample; 0 for a single run.
    """

    name: str
    runs: int
    mean: float
    deviation: float


def spread(name: str, scores: Sequence[float]) -> Spread:
    """Mean and deviation of ``scores``, of which there is at least one."""
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return Spread(name, len(scores), statistics.fmean(scores), deviation)


def _with(document: dict[str, Any], key: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of ``document`` with another value; an unknown key is left for the model to refuse."""
    first, *rest = key
    inside = document.get(first)
    if rest:
        value = _with(inside if isinstance(inside, dict) else {}, rest, value)
    return document | {first: value}


def _spelt(value: Any) -> str:
    """A value as part of a file name."""
    text = "-".join(map(_spelt, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")
