from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def decoders() -> ModuleType:
    """The tests' maker of tiny decoder-only models."""
    path = Path(__file__).parents[1] / "model" / "decoders.py"
    spec = importlib.util.spec_from_file_location("spamo_cache_tests_analysis_decoders", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
