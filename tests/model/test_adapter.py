from __future__ import annotations

import pytest
import torch
from torch import nn

from spamo_cache.config import AdapterConfig, AlignConfig
from spamo_cache.errors import ConfigError
from spamo_cache.model.adapter import SignAdapter, TemporalConv, parse_tcn
from spamo_cache.model.align import VTAlign
from spamo_cache.model.rows import Packed, Padded, join

RMS = torch.tensor(3.0)


def packed(lengths, width, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return Packed(torch.randn(sum(lengths), width, generator=chance), torch.tensor(lengths))


def adapter(**config):
    torch.manual_seed(0)
    return SignAdapter(
        {"spatial": 6, "motion": 4}, AdapterConfig(width=8, **config), out=12, rms=RMS
    )


def clips(spatial, motion):
    return {"spatial": packed(spatial, 6), "motion": packed(motion, 4, seed=1)}


def only(streams, clip):
    """The same clip alone."""
    alone = {}
    for name, part in streams.items():
        rows = part.rows.split(part.lengths.tolist())[clip]
        alone[name] = Packed(rows, part.lengths[clip : clip + 1])
    return alone


def test_joins_each_clip_without_gaps():
    first, second = packed([2, 0, 3], 5), packed([1, 2, 0], 5, seed=1)
    joined = join([first, second], minimum=3)
    assert joined.lengths.tolist() == [3, 3, 3]
    assert torch.equal(joined.rows[0], torch.cat([first.rows[:2], second.rows[:1]]))
    assert torch.equal(joined.rows[1, :2], second.rows[1:])
    assert not joined.rows[1, 2].any()
    assert torch.equal(joined.rows[2], first.rows[2:])


def test_joining_passes_gradients_to_every_row():
    part = Packed(torch.randn(5, 3, requires_grad=True), torch.tensor([2, 3]))
    join([part, part]).rows.sum().backward()
    assert torch.equal(part.rows.grad, torch.full((5, 3), 2.0))


def test_packing_undoes_padding():
    part = packed([2, 4, 1], 3)
    assert torch.equal(join([part]).packed().rows, part.rows)


@pytest.mark.parametrize("scale", ["none", "embeddings"])
@pytest.mark.parametrize("norm", ["batch", "masked"])
def test_padding_does_not_matter_in_evaluation(scale, norm):
    model = adapter(scale=scale, norm=norm).eval()
    streams = clips([20, 61, 33], [2, 7, 4])
    together = model(streams)
    for clip in range(3):
        alone = model(only(streams, clip))
        length = int(alone.lengths[0])
        assert length == together.lengths[clip]
        torch.testing.assert_close(alone.rows[0], together.rows[clip, :length])


def test_short_clips_are_padded_not_dropped():
    rows = adapter().eval()(clips([1, 40], [1, 5]))
    assert rows.lengths.tolist() == [1, 8]
    assert rows.rows.isfinite().all()


def test_counts_the_rows_a_tcn_needs():
    assert TemporalConv(4, "k5 p2 k5 p2", "batch").needs == 16
    assert TemporalConv(4, "", "batch").needs == 1
    for tcn in ("k5 p2 k5 p2", "k3 k3 p4", "p2 k2"):
        layer = TemporalConv(4, tcn, "batch").eval()
        for rows, expected in ((layer.needs, 1), (layer.needs - 1, 0)):
            padded = Padded(torch.randn(2, 64, 4), torch.tensor([rows, 64]))
            assert layer(padded).lengths[0] == expected


@pytest.mark.parametrize(("norm", "same"), [("masked", True), ("batch", False)])
def test_masked_norm_ignores_padding_in_training(norm, same):
    torch.manual_seed(0)
    layer = TemporalConv(4, "k3 p2", norm).train()
    rows = torch.randn(2, 20, 4)
    wider = torch.cat([rows, torch.full((2, 30, 4), 50.0)], dim=1)
    lengths = torch.tensor([20, 13])
    short, long = layer(Padded(rows, lengths)), layer(Padded(wider, lengths))
    torch.testing.assert_close(short.lengths, long.lengths)
    assert torch.allclose(short.packed().rows, long.packed().rows, atol=1e-5) is same


def test_rows_take_the_size_of_the_embeddings():
    rows = adapter(scale="embeddings")(clips([40], [5])).packed().rows
    assert rows.square().mean(1).sqrt().tolist() == pytest.approx([3.0] * len(rows), rel=1e-3)


@pytest.mark.parametrize("text", ["k0", "x3", "k5p2", "5", "k-1"])
def test_refuses_a_malformed_tcn(text):
    with pytest.raises(ConfigError, match="no step of a TCN"):
        parse_tcn(text)


def align(**config):
    return VTAlign(AlignConfig(steps=1, batch=2, lr=1e-3, **config), 4)


def test_alignment_is_low_for_matching_pairs_only():
    rows = Padded(nn.functional.one_hot(torch.arange(4)).float()[:, None], torch.ones(4))
    turned = Padded(rows.rows.roll(1, 0), rows.lengths)
    assert align()(rows, rows) < 1e-4
    assert align()(rows, turned) > 10


@pytest.mark.parametrize(("pooling", "same"), [("masked", True), ("padded", False)])
def test_masked_pooling_ignores_padding(pooling, same):
    text = packed([2, 3], 4)
    sign = join([packed([2, 3], 4, seed=1)])
    wider = Padded(nn.functional.pad(sign.rows, (0, 0, 0, 5), value=9.0), sign.lengths)
    loss = align(pooling=pooling)
    assert torch.allclose(loss(sign, join([text])), loss(wider, join([text]))) is same


def test_centre_is_taken_from_the_text():
    loss, text = align(center=True), join([packed([3, 3], 4)])
    loss.center.copy_(text.mean().mean(0))
    centred = text.mean() - loss.center
    torch.testing.assert_close(loss.pool_text(text), nn.functional.normalize(centred, dim=-1))
