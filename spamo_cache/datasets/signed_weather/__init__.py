"""The corpus that comes with the project: synthetic videos of a toy sign language."""

from spamo_cache.datasets.signed_weather.make import (
    DEFAULT_SIZE,
    NAME,
    SPLITS,
    is_drawn,
    make,
    manifest,
)

__all__ = ["DEFAULT_SIZE", "NAME", "SPLITS", "is_drawn", "make", "manifest"]
