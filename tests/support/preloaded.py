"""What forks have imported before they begin: a start then costs hundredths of a second."""

import importlib

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import CacheSpec, parse
from tests.support import GOLDEN

declare_torchvision_ops()
for _name in (
    "spamo_cache.cli.main",
    "spamo_cache.evaluate",
    "spamo_cache.extract.executors",
    "spamo_cache.extract.extraction",
    "spamo_cache.report",
    "spamo_cache.train",
    "spamo_cache.workflow.analyze",
    "spamo_cache.workflow.evaluate",
    "spamo_cache.workflow.extract",
    "spamo_cache.workflow.train",
    # What these import where they need it.
    "spamo_cache.encoders.hugging_face",
    "spamo_cache.encoders.motion",
    "spamo_cache.encoders.openclip",
    "open_clip",
    "peft",
    "sacrebleu.tokenizers.tokenizer_13a",
    "torch.utils.tensorboard",
    "transformers.models.clip",
    "transformers.models.t5.modeling_t5",
    "transformers.models.videomae.image_processing_videomae",
    "transformers.models.videomae.modeling_videomae",
    "zarr",
):
    importlib.import_module(_name)

# With the first networks transformers compiles a thousand patterns, and torch its decompositions.
_SPEC = {
    "name": "tiny",
    "streams": {
        "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1]},
        "motion": {"encoder": "videomae", "weights": "videomae"},
    },
}
_registry = importlib.import_module("spamo_cache.encoders.registry")
for _stream in parse(_SPEC, CacheSpec, where="tests").streams.values():
    _registry.build(_stream, GOLDEN / "encoders", "float32")
