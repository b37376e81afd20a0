from __future__ import annotations

import pytest
import torch
from torch import nn

from spamo_cache.config import AdapterConfig
from spamo_cache.errors import ConfigError
from spamo_cache.model.adapter import SignAdapter, TemporalConv, VTAlign, parse_tcn
from spamo_cache.model.rows import Packed, Padded, beside, in_step, join, weighed

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


def test_rounding_does_not_move_what_batch_norm_takes_off():
    model = adapter()
    model(clips([20, 61, 33], [2, 7, 4])).rows.square().sum().backward()
    for conv in model.tcn.convs:
        assert not conv.bias.grad.any()
        assert conv.weight.grad.any()


def test_counts_the_rows_a_tcn_needs():
    assert TemporalConv(4, 4, "k5 p2 k5 p2", "batch").needs == 16
    assert TemporalConv(4, 4, "", "batch").needs == 1
    for tcn in ("k5 p2 k5 p2", "k3 k3 p4", "p2 k2"):
        layer = TemporalConv(4, 4, tcn, "batch").eval()
        for rows, expected in ((layer.needs, 1), (layer.needs - 1, 0)):
            padded = Padded(torch.randn(2, 64, 4), torch.tensor([rows, 64]))
            assert layer(padded).lengths[0] == expected


@pytest.mark.parametrize(("norm", "same"), [("masked", True), ("batch", False)])
def test_masked_norm_ignores_padding_in_training(norm, same):
    torch.manual_seed(0)
    layer = TemporalConv(4, 4, "k3 p2", norm).train()
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


def test_alignment_is_low_for_matching_pairs_only():
    rows = Padded(nn.functional.one_hot(torch.arange(4)).float()[:, None], torch.ones(4))
    turned = Padded(rows.rows.roll(1, 0), rows.lengths)
    assert VTAlign(4)(rows, rows) < 1e-4
    assert VTAlign(4)(rows, turned) > 10


def test_alignment_is_never_in_half_precision():
    sign, text = join([packed([2, 3, 4], 16)]), join([packed([5, 1, 2], 16, seed=1)])
    loss = VTAlign(16)
    expected = loss(sign, text)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(sign, text)
        assert (sign.rows[0] @ text.rows[0].T).dtype == torch.bfloat16
        halves = loss(Padded(sign.rows.bfloat16(), sign.lengths), text)
    assert torch.equal(found, expected)
    assert halves.dtype == torch.float32
    assert torch.equal(halves, loss(Padded(sign.rows.bfloat16().float(), sign.lengths), text))


@pytest.mark.parametrize(("padded", "same"), [(False, True), (True, False)])
def test_masked_pooling_ignores_padding(padded, same):
    text = packed([2, 3], 4)
    sign = join([packed([2, 3], 4, seed=1)])
    wider = Padded(nn.functional.pad(sign.rows, (0, 0, 0, 5), value=9.0), sign.lengths)
    loss = VTAlign(4, padded=padded)
    assert torch.allclose(loss(sign, join([text])), loss(wider, join([text]))) is same


def test_centre_is_taken_from_the_text():
    loss, text = VTAlign(4), join([packed([3, 3], 4)])
    loss.center.copy_(text.mean().mean(0))
    centred = text.mean() - loss.center
    torch.testing.assert_close(loss.pool_text(text), nn.functional.normalize(centred, dim=-1))


# --- fusion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [([7, 3, 1], [2, 3, 4]), ([5, 1], [1, 1]), ([4, 6], [9, 12])])
def test_streams_side_by_side_are_interpolated_within_each_clip(lengths):
    first, second = packed(lengths[0], 5), packed(lengths[1], 3, seed=1)
    both = beside([first, second])
    assert torch.equal(both.rows[:, :5], first.rows)
    stretched = both.rows[:, 5:].split(lengths[0])
    for clip, rows in enumerate(second.rows.split(lengths[1])):
        expected = nn.functional.interpolate(rows.T[None], lengths[0][clip], mode="linear")
        torch.testing.assert_close(stretched[clip], expected[0].T)


def test_a_clip_without_motion_gets_zeros():
    both = beside([packed([2, 3], 5), packed([0, 2], 3, seed=1)])
    assert not both.rows[:2, 5:].any()
    assert both.rows[2:, 5:].all()


def test_side_by_side_passes_gradients_to_every_row():
    motion = Packed(torch.randn(5, 4, requires_grad=True), torch.tensor([2, 3]))
    beside([packed([9, 13], 6), motion]).rows.sum().backward()
    assert motion.rows.grad.all()


def three_streams(fusion, norm="batch", order=("spatial", "motion", "face")):
    torch.manual_seed(0)
    widths = {"spatial": 6, "motion": 4, "face": 3}
    config = AdapterConfig(width=8, fusion=fusion, norm=norm)
    model = SignAdapter({name: widths[name] for name in order}, config, out=12, rms=RMS)
    return model, {name: packed([20, 61, 1], width) for name, width in widths.items()} | {
        "motion": packed([2, 7, 1], 4, seed=1)
    }


@pytest.mark.parametrize("fusion", ["time", "features", "gate"])
@pytest.mark.parametrize(
    "order", [("spatial", "motion", "face"), ("motion", "spatial"), ("motion",)], ids=" ".join
)
def test_any_streams_in_any_order_whatever_the_batch(fusion, order):
    model, streams = three_streams(fusion, order=order)
    together = model.eval()(streams)
    for clip in range(3):
        alone = model(only(streams, clip))
        length = int(alone.lengths[0])
        assert length == together.lengths[clip]
        torch.testing.assert_close(alone.rows[0], together.rows[clip, :length])
    assert together.rows.isfinite().all()


def test_one_stream_is_the_same_however_it_is_fused():
    made = [three_streams(fusion, order=("spatial",)) for fusion in ("time", "features", "gate")]
    one, *others = (model.eval()(streams) for model, streams in made)
    assert all(torch.equal(one.rows, other.rows) for other in others)


def test_side_by_side_has_the_rows_of_the_first_stream():
    model, streams = three_streams("features")
    assert model.eval()(streams).lengths.tolist() == [2, 12, 1]


@pytest.mark.parametrize("fusion", ["time", "features", "gate"])
def test_more_padding_changes_nothing_in_masked_training(fusion):
    """Clips 0 and 1 keep their rows when the batch is padded to a longer clip's length."""
    model, streams = three_streams(fusion, norm="masked")
    joined = model.train().tcn
    seen = []
    joined.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(streams)
    wider = Padded(nn.functional.pad(seen[0].rows, (0, 0, 0, 40), value=7.0), seen[0].lengths)
    short, long = joined(seen[0]), joined(wider)
    torch.testing.assert_close(short.packed().rows, long.packed().rows)


def test_nothing_is_done_clip_by_clip():
    """As many operations for sixty clips as for two."""
    model, _ = three_streams("features")

    def operations(clips):
        lengths = [20 + i % 3 for i in range(clips)]
        streams = {
            name: packed(lengths, layer.in_features) for name, layer in model.projections.items()
        }
        with torch.profiler.profile() as profile:
            model(streams)
        return sum(event.count for event in profile.key_averages())

    assert operations(60) == operations(2)


# --- more than two streams, by a gate -----------------------------------------------------------


def test_a_gate_adds_streams_up_as_worked_out_by_hand():
    lengths = torch.tensor([3])
    one = Packed(torch.tensor([[4.0, 0.0], [8.0, 0.0], [2.0, 2.0]]), lengths)
    two = Packed(torch.tensor([[0.0, 4.0], [0.0, 8.0], [9.0, 9.0]]), lengths)
    scores = [torch.tensor([3.0, 1.0, 0.0]).log(), torch.zeros(3)]
    expected = [[3.0, 1.0], [4.0, 4.0], [9.0, 9.0]]
    scores[0][2] = -100.0
    torch.testing.assert_close(weighed([one, two], scores).rows, torch.tensor(expected))
    marked = [
        Packed(one.rows, lengths, None, torch.tensor([True, False, False])),
        Packed(two.rows, lengths, None, torch.tensor([True, True, False])),
    ]
    found = weighed(marked, scores)
    assert torch.equal(found.rows[1:], torch.tensor([[0.0, 8.0], [0.0, 0.0]]))
    torch.testing.assert_close(found.rows[0], torch.tensor([3.0, 1.0]))
    assert found.valid.tolist() == [True, True, False]


def test_a_stream_without_rows_gets_no_weight():
    first, second = packed([2, 3], 4), packed([0, 2], 4, seed=1)
    parts = in_step([first, second])
    found = weighed(parts, [torch.zeros(5), torch.full((5,), 9.0)])
    assert torch.equal(found.rows[:2], first.rows[:2])
    assert not torch.equal(found.rows[2:], first.rows[2:])


def test_a_gate_has_a_number_per_stream_and_row():
    counts = {}
    for fusion in ("time", "features", "gate"):
        model, _ = three_streams(fusion)
        counts[fusion] = sum(value.numel() for value in model.parameters())
    tcn = 5 * 8 * 8  # the first convolution, of rows 8 wide
    assert counts["features"] - counts["time"] == 2 * tcn
    assert counts["gate"] - counts["time"] == 3 * (8 + 1)


# --- rows that are not valid ----------------------------------------------------------------------


def marked(part, share=0.6, seed=5):
    chance = torch.Generator().manual_seed(seed)
    valid = torch.rand(len(part.rows), generator=chance) < share
    return Packed(part.rows, part.lengths, part.known, valid)


def with_noise(part):
    """Other numbers in the rows that are not valid."""
    return part.holding(part.rows.masked_fill(~part.valid[:, None], 77.0))


@pytest.mark.parametrize("fusion", ["time", "features", "gate"])
@pytest.mark.parametrize("norm", ["batch", "masked"])
@pytest.mark.parametrize("training", [True, False])
def test_what_invalid_rows_hold_changes_nothing(fusion, norm, training):
    model, streams = three_streams(fusion, norm=norm)
    model.train(training)
    streams = {name: marked(part, seed=len(name)) for name, part in streams.items()}
    one, other = (
        model(given) for given in (streams, {n: with_noise(p) for n, p in streams.items()})
    )
    assert torch.equal(one.rows, other.rows)
    assert torch.equal(one.mask, other.mask)
    one.rows.square().sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize("fusion", ["time", "features", "gate"])
def test_rows_that_are_all_valid_are_as_without_validity(fusion):
    model, streams = three_streams(fusion)
    model.eval()
    plain, said = model(streams), model({name: marked(p, 2) for name, p in streams.items()})
    assert torch.equal(plain.mask, said.mask)
    one, other = plain.rows[plain.mask], said.rows[plain.mask]
    torch.testing.assert_close(one, other)
    assert fusion != "time" or torch.equal(one, other)  # the others interpolate in another order


def test_an_output_is_valid_if_any_of_its_rows_is():
    layer = TemporalConv(4, 4, "k3 p2", "batch").eval()
    valid = torch.ones(1, 12, dtype=torch.bool)
    valid[0, 3:9] = False  # four rows lie under an output: 0-3, 2-5, 4-7, 6-9, 8-11
    found = layer(Padded(torch.randn(1, 12, 4), torch.tensor([12]), (12,), valid))
    assert found.mask.tolist() == [[True, True, False, True, True]]
    assert not found.rows[0, 2].any()


def test_pools_pass_over_invalid_rows():
    rows = torch.tensor([[[-5.0], [9.0], [-1.0], [-2.0], [7.0], [7.0]]])
    valid = torch.tensor([[True, False, True, True, False, False]])
    found = TemporalConv(1, 1, "p2", "batch")(Padded(rows, torch.tensor([6]), (6,), valid))
    assert found.rows.flatten().tolist() == [-5.0, -1.0, 0.0]
    assert found.mask.tolist() == [[True, True, False]]


def test_side_by_side_goes_on_with_the_neighbour_that_is_valid():
    first = packed([4], 1)
    second = Packed(
        torch.tensor([[2.0], [99.0]]), torch.tensor([2]), None, torch.tensor([True, False])
    )
    both = beside([first, second])
    # Points at -0.25, 0.25, 0.75 and 1.25 of rows 0 and 1: the last one meets row 1 alone.
    assert both.rows[:, 1].tolist() == [2.0, 2.0, 2.0, 0.0]
    assert both.valid.all()


@pytest.mark.parametrize("padded", [True, False])
def test_means_are_over_valid_rows(padded):
    rows = torch.tensor([[[1.0], [5.0], [3.0], [0.0]], [[2.0], [2.0], [0.0], [0.0]]])
    valid = torch.tensor([[True, False, True, False], [False, False, False, False]])
    found = VTAlign(1, padded=padded).pool(Padded(rows, torch.tensor([3, 2]), (3, 2), valid))
    assert found.flatten().tolist() == pytest.approx([4 / 3, 0.0] if padded else [2.0, 0.0])
