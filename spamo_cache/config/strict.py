"""What all models of files are made of, and the names they give; without YAML, which stores do not
need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spamo_cache.config.paths import NAME_PATTERN


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys, silent type conversions, infinities and NaN."""

    shipped_in: ClassVar[tuple[str, str] | None] = None
    """Folder of the project whose files ``base:`` may name, and what a folder in it stands for."""

    # Built at once, not when first used: pydantic before 2.14 builds wrongly where threads use a
    # model for the first time side by side.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        """YAML and JSON have lists, the models have tuples: the one conversion that is wanted."""
        if not isinstance(data, Mapping):
            return data
        return {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}


Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
