"""YAML -> frozen pydantic models. An unknown key is an error that names the nearest known one.

Nothing is imported before it is used: most commands need few of the models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spamo_cache.config.experiment import Axis, Experiment, Variant
    from spamo_cache.config.loading import assignment, load, overrides, parse, read_yaml
    from spamo_cache.config.paths import (
        NAME_PATTERN,
        expanded,
        home,
        named_file,
        roots,
        shipped,
        shipped_names,
    )
    from spamo_cache.config.pipeline import (
        AdapterConfig,
        AlignConfig,
        DecodeConfig,
        EncodersConfig,
        LLMConfig,
        Pipeline,
        ProtocolConfig,
        StageConfig,
        TextConfig,
        TranslateConfig,
        TuningConfig,
    )
    from spamo_cache.config.spec import (
        BoxSpec,
        CacheSpec,
        FramesSpec,
        MotionStream,
        NetworkStream,
        PoseStream,
        RowsSpec,
        SpatialStream,
        StoreSpec,
        StreamSpec,
        TransformersStream,
    )
    from spamo_cache.config.strict import Name, StrictModel

__all__ = [
    "NAME_PATTERN",
    "AdapterConfig",
    "AlignConfig",
    "Axis",
    "BoxSpec",
    "CacheSpec",
    "DecodeConfig",
    "EncodersConfig",
    "Experiment",
    "FramesSpec",
    "LLMConfig",
    "MotionStream",
    "Name",
    "NetworkStream",
    "Pipeline",
    "PoseStream",
    "ProtocolConfig",
    "RowsSpec",
    "SpatialStream",
    "StageConfig",
    "StoreSpec",
    "StreamSpec",
    "StrictModel",
    "TextConfig",
    "TransformersStream",
    "TranslateConfig",
    "TuningConfig",
    "Variant",
    "assignment",
    "expanded",
    "home",
    "load",
    "named_file",
    "overrides",
    "parse",
    "read_yaml",
    "roots",
    "shipped",
    "shipped_names",
]

_MODULES = ("paths", "strict", "loading", "spec", "pipeline", "experiment")
"""Where these names are defined; what takes longer to import comes later."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in found:
                globals()[name] = found[name]
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
