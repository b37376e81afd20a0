"""VT-Align over several processes is VT-Align over one big batch."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from spamo_cache.model.rows import gathered
from tests.support import gathering

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(launch, tmp_path_factory):
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("processes")
    given = [(rank, folder / "rendezvous", folder / f"{rank}") for rank in range(2)]
    children = [launch("tests.support.gathering", *words) for words in given]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert not any(child.returncode for child in children), errors
    return [load_file(folder / f"{rank}") for rank in range(2)]


def test_loss_and_gradients_are_those_of_one_big_batch(found):
    whole = gathering.Aligned()
    loss = whole(*gathering.material(range(6)))
    loss.backward()
    for one in found:
        torch.testing.assert_close(one["loss"], loss.detach())
        for name, value in whole.named_parameters():
            torch.testing.assert_close(one[name], value.grad)


def test_evaluation_stays_with_its_own_clips(found):
    for one, clips in zip(found, ([0, 1, 2], [3, 4, 5]), strict=True):
        expected = gathering.Aligned().eval()(*gathering.material(clips))
        torch.testing.assert_close(one["alone"], expected.detach())


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 4)
    assert gathered(rows) is rows
