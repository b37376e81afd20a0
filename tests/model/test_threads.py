"""A fixed number of threads, for a while."""

from __future__ import annotations

import pytest
import torch

from spamo_cache.model.threads import cpu_threads


@pytest.mark.parametrize(("asked", "inside"), [(1, 1), (2, 2), (None, 3)])
def test_threads_are_set_and_given_back(asked: int | None, inside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), cpu_threads(asked):
            assert torch.get_num_threads() == inside
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
