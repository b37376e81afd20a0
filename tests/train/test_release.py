"""What the official release does in training, switch by switch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import StageConfig
from spamo_cache.errors import ConfigError
from spamo_cache.model.tokens import Tokens
from spamo_cache.train import optim
from spamo_cache.train.data import Schedule, examples
from spamo_cache.train.microbatch import MicrobatchSplitter

STAGE = StageConfig(steps=57, batch=16, lr=6e-4, grad_accum_steps=2)


def test_the_learning_rate_is_that_of_transformers_cosine_schedule():
    """As the release sets it up; Lightning steps it after every update."""
    declare_torchvision_ops()
    from transformers import get_cosine_schedule_with_warmup

    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=STAGE.lr)
    schedule = get_cosine_schedule_with_warmup(optimiser, int(STAGE.steps * 0.1), STAGE.steps)
    theirs = []
    for _ in range(STAGE.steps):
        theirs.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    ours = [optim.learning_rate(STAGE, step, from_zero=True) for step in range(STAGE.steps)]
    assert ours == pytest.approx(theirs)
    assert ours[0] == 0
    assert optim.learning_rate(STAGE, 0) > 0


def test_weight_decay_on_everything():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for everything in (False, True):
        optimiser = optim.make(module, STAGE, decay_everything=everything)
        decayed = {
            id(value)
            for group in optimiser.param_groups
            for value in group["params"]
            if group["weight_decay"]
        }
        expected = [v for v in module.parameters() if everything or v.ndim > 1]
        assert decayed == set(map(id, expected))


def test_unsorted_batches_hold_clips_of_any_length():
    lengths = np.arange(50)
    schedule = Schedule(lengths, 16, "0", unsorted=True)
    assert (schedule.per_epoch, schedule.left) == (4, 2)
    epochs = [[schedule[step] for step in range(e * 4, e * 4 + 4)] for e in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [16, 16, 16, 2]
        assert sorted(number for batch in epoch for number in batch) == list(range(50))
    assert epochs[0] != epochs[1]
    # Sorted by length, a batch would hold neighbours.
    assert all(max(batch) - min(batch) > 20 for batch in epochs[0][:3])
    assert Schedule(lengths, 16, "0").left == 0


def parts(schedule, tokens, rank=0, processes=1, *, alike=True):
    accelerator = SimpleNamespace(process_index=rank, num_processes=processes)
    return MicrobatchSplitter("translate", STAGE, schedule, tokens, accelerator, alike=alike)


def test_batches_of_a_step_count_alike():
    """Lightning divides the loss of each by their number, also where an epoch ends with one."""
    schedule = Schedule(np.ones(20), 16, "0", unsorted=True)
    tokens = [1 + number for number in range(20)]
    cut = parts(schedule, tokens)
    first, second = cut(list(range(16)))
    assert (first.numbers, second.numbers) == (list(range(8)), list(range(8, 16)))
    assert [(part.lm, part.align) for part in (first, second)] == [(0.5, 0.5)] * 2
    (last,) = cut([16, 17, 18, 19])
    assert (last.lm, last.align) == (0.5, 0.5)
    # Otherwise by their tokens, and a step of one part is worth a whole one.
    first, second = parts(schedule, tokens, alike=False)(list(range(16)))
    assert (first.lm, second.lm) == (36 / 136, 100 / 136)
    (last,) = parts(schedule, tokens, alike=False)([16, 17, 18, 19])
    assert (last.lm, last.align) == (1.0, 1.0)


def test_processes_share_each_of_the_batches():
    schedule = Schedule(np.ones(20), 16, "0", unsorted=True)
    tokens = [1 + number for number in range(20)]
    shares = [parts(schedule, tokens, rank, 2)(list(range(16))) for rank in range(2)]
    for one, other in zip(*shares, strict=True):
        assert sorted([*one.numbers, *other.numbers]) in (list(range(8)), list(range(8, 16)))
        assert one.lm + other.lm == pytest.approx(0.5)
        assert one.align + other.align == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="last 3 clips of an epoch"):
        parts(Schedule(np.ones(19), 16, "0", unsorted=True), tokens, 0, 2)


def test_whole_targets_are_not_cut(toy):
    manifest, stores = toy.corpus()
    tokens = Tokens(toy.GOLDEN / "llm")
    config = toy.pipeline(decode={"max_tokens": 4}, protocol={"whole_targets": True})
    data = examples(config, manifest, stores, "train", tokens)
    assert data.tokens == tokens.encode(data.texts)
    assert max(map(len, data.tokens)) > 4
