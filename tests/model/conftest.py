from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[1] / "golden" / "translator"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden_expected() -> Any:
    return json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
