from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def _load():
    path = Path(__file__).parents[1] / "train" / "toy.py"
    spec = importlib.util.spec_from_file_location("spamo_cache_tests_toy", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy():
    return _load()


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory):
    """One uninterrupted run that tests only read."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, toy.run(out)
