from __future__ import annotations

from types import ModuleType

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    from tests.support import toy

    return toy


@pytest.fixture(scope="session")
def finished(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    """One uninterrupted run that tests only read."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, toy.run(out)
