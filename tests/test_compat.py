"""A fixed number of threads, for a while."""

from __future__ import annotations

import pytest
import torch

from spamo_cache.compat import cpu_threads


def fail_within(asked: int | None) -> None:
    with cpu_threads(asked):
        raise KeyError(torch.get_num_threads())


@pytest.mark.parametrize(("asked", "inside"), [(1, 1), (2, 2), (None, 3)])
def test_threads_are_set_and_given_back(asked: int | None, inside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError, match=str(inside)):
            fail_within(asked)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
