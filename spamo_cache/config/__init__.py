"""YAML -> frozen pydantic models. An unknown key is an error that names the nearest known one."""

from spamo_cache.config.experiment import Axis, Experiment, Variant
from spamo_cache.config.loading import assignment, load, overrides, parse, read_yaml
from spamo_cache.config.paths import expanded, home, named_file, roots, shipped
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
    CacheSpec,
    FramesSpec,
    MotionStream,
    RowsSpec,
    SpatialStream,
    StoreSpec,
    StreamSpec,
    TransformersStream,
)
from spamo_cache.config.strict import NAME_PATTERN, Name, StrictModel

__all__ = [
    "NAME_PATTERN",
    "AdapterConfig",
    "AlignConfig",
    "Axis",
    "CacheSpec",
    "DecodeConfig",
    "EncodersConfig",
    "Experiment",
    "FramesSpec",
    "LLMConfig",
    "MotionStream",
    "Name",
    "Pipeline",
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
]
