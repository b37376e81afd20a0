"""The corpora that come with the project: synthetic videos of a toy sign language."""

from spamo_cache.datasets.signed_weather.dialects import DIALECTS
from spamo_cache.datasets.signed_weather.make import (
    DEFAULT_SIZE,
    NAME,
    SPLITS,
    add_poses,
    drop_out_of,
    is_drawn,
    lacks_poses,
    make,
    manifest,
    plans,
    write_poses,
)

__all__ = [
    "DEFAULT_SIZE",
    "DIALECTS",
    "NAME",
    "SPLITS",
    "add_poses",
    "drop_out_of",
    "is_drawn",
    "lacks_poses",
    "make",
    "manifest",
    "plans",
    "write_poses",
]
