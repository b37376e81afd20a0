"""What forks have imported before they begin: a start then costs hundredths of a second."""

import importlib

from spamo_cache.compat import declare_torchvision_ops

declare_torchvision_ops()
for _name in (
    "spamo_cache.cli.main",
    "spamo_cache.evaluate",
    "spamo_cache.extract.executors",
    "spamo_cache.extract.extraction",
    "spamo_cache.train",
    "open_clip",
    "transformers.models.t5.modeling_t5",
    "transformers.models.videomae.modeling_videomae",
):
    importlib.import_module(_name)
