"""An experiment: one question, and the runs on one corpus that answer it together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from spamo_cache.config.strict import Name, StrictModel


class Variant(StrictModel):
    """One point of an experiment."""

    label: Annotated[str, Field(min_length=1)]
    """What it is, in a few words: its line in a table."""
    set: Mapping[str, Any] = {}
    """Changes to the corpus's default pipeline, dotted key -> value as ``--set`` has them."""
    eval_spec_set: Mapping[str, Any] = {}
    """Changes to the cache spec for the test alone; the run is trained without them."""
    group: str = ""
    """Variants of one group are a curve of their own if they have an ``x``; without, as the folds
    of a corpus, they have a line for their mean and spread."""
    x: float | None = None
    """Its place on the experiment's axis."""
    against: Name | None = None
    """The variant that it is held against; None is the pipeline as it stands, else the first."""


class Axis(StrictModel):
    """What a curve over the variants is drawn against."""

    label: str
    log: bool = False


class Experiment(StrictModel):
    """Runs that differ from a corpus's default pipeline, each in what its variant says."""

    name: Name
    question: Annotated[str, Field(min_length=1)]
    paper: str = ""
    """What the paper or its release says about it."""
    axis: Axis | None = None
    """None: the variants have no order, and a table will do."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Runs of each variant, unless another number is asked for."""
    variants: Mapping[Name, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _variants_are_held_against_others(self) -> Experiment:
        for name, variant in self.variants.items():
            if variant.against is not None and variant.against not in {*self.variants} - {name}:
                raise ValueError(f"{name} is held against {variant.against!r}, no other variant")
        return self
