"""Encoders with a LoRA: at first what they were, then what the LoRA's weights say; nothing else
learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spamo_cache.config import EncodersConfig, MotionStream, SpatialStream, TransformersStream
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.tunable import TunableEncoder
from spamo_cache.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
STREAMS = {
    "spatial": SpatialStream(encoder="open_clip", weights="clip-vision"),
    "motion": MotionStream(encoder="videomae", weights="videomae"),
}
Pixels = Callable[..., torch.Tensor]


@pytest.fixture(params=sorted(STREAMS))
def stream(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(stream: str) -> Encoder:
    return registry.build(STREAMS[stream], GOLDEN, "float32", "cpu")


def tunable(stream: str, seed: int = 0, **config: Any) -> TunableEncoder:
    return TunableEncoder(build(stream), EncodersConfig(**{"blocks": 2, **config}), seed)


def flat(tuned: TunableEncoder, pixels: Pixels, rows: int = 3) -> torch.Tensor:
    return pixels(rows, *tuned.shape).flatten(1)


def windows(tuned: TunableEncoder, rows: torch.Tensor) -> torch.Tensor:
    return rows.unflatten(1, tuned.shape).movedim(-1, -3)


def loras(tuned: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in tuned.named_parameters() if value.requires_grad}


def stir(tuned: TunableEncoder) -> None:
    """Move the LoRA away from its zeros."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in loras(tuned).values():
            value.normal_(std=0.1)


@pytest.mark.slow
def test_a_fresh_lora_changes_nothing(stream: str, pixels: Pixels) -> None:
    tuned = tunable(stream)
    rows = flat(tuned, pixels)
    found = tuned.train()(rows)
    expected = build(stream).encode(windows(tuned, rows))
    torch.testing.assert_close(found.detach(), expected.clone(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_lora_counts_in_every_one_of_its_blocks(stream: str, pixels: Pixels) -> None:
    """The last block too, of which only one token is computed."""
    tuned = tunable(stream)
    stir(tuned)
    rows = flat(tuned, pixels)
    plain: Any = build(stream)
    changed: Any = tuned.encoder.network
    with torch.no_grad():
        for number in (-2, -1):
            for name in ("qkv", "out"):
                delta = getattr(changed.blocks[number], name).get_delta_weight("default")
                getattr(plain.network.blocks[number], name).weight += delta
    expected = plain.encode(windows(tuned, rows)).clone()
    torch.testing.assert_close(tuned(rows).detach(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_gradients_reach_the_lora_and_nothing_else(stream: str, pixels: Pixels) -> None:
    tuned = tunable(stream)
    stir(tuned)
    tuned(flat(tuned, pixels)).square().sum().backward()
    assert {name.split(".")[-3] for name in loras(tuned)} == {"lora_A", "lora_B"}
    for name, value in tuned.named_parameters():
        assert (value.grad is not None and bool(value.grad.any())) == ("lora_" in name), name


@pytest.mark.slow
def test_gradients_are_those_of_the_function(stream: str, pixels: Pixels) -> None:
    """The blocks add and activate in place, and are computed twice."""
    tuned = tunable(stream)
    tuned.encoder.network.double()
    stir(tuned)
    rows = flat(tuned, pixels, rows=2)
    weights = torch.randn(tuned(rows).shape, generator=torch.Generator().manual_seed(2))

    def value() -> torch.Tensor:
        total: torch.Tensor = (tuned(rows).double() * weights).sum()
        return total

    value().backward()
    with torch.no_grad():
        for name, parameter in loras(tuned).items():
            direction = torch.randn_like(parameter)
            assert parameter.grad is not None
            told = float((parameter.grad * direction).sum())
            parameter.add_(direction, alpha=1e-3)
            above = float(value())
            parameter.sub_(direction, alpha=2e-3)
            slope = (above - float(value())) / 2e-3
            parameter.add_(direction, alpha=1e-3)
            assert told == pytest.approx(slope, rel=0.02, abs=0.02), name


def test_frozen_blocks_are_computed_once(stream: str, pixels: Pixels) -> None:
    tuned: Any = tunable(stream, blocks=1)
    counts = {"frozen": 0, "tuned": 0}

    def counter(kind: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[kind] += 1

        return count

    tuned.encoder.network.blocks[-2].norm_1.register_forward_hook(counter("frozen"))
    tuned.encoder.network.blocks[-1].norm_1.register_forward_hook(counter("tuned"))
    found = tuned(flat(tuned, pixels))
    once = dict(counts)
    found.sum().backward()
    assert counts == {"frozen": once["frozen"], "tuned": 2 * once["tuned"]}


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_last_blocks_are_tuned(stream: str, blocks: int) -> None:
    found = {int(name.split("blocks.")[1][0]) for name in loras(tunable(stream, blocks=blocks))}
    assert found == set(range(3 - blocks, 3))


@pytest.mark.slow
def test_equal_seeds_begin_alike() -> None:
    before = torch.get_rng_state()
    first, again, other = (tunable("motion", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    name = next(name for name in loras(first) if "lora_A" in name)
    assert torch.equal(loras(first)[name], loras(again)[name])
    assert not torch.equal(loras(first)[name], loras(other)[name])


@pytest.mark.slow
def test_only_the_lora_drops_out(pixels: Pixels) -> None:
    tuned = tunable("motion", dropout=0.5)
    stir(tuned)
    rows = flat(tuned, pixels)
    assert not torch.equal(tuned.train()(rows), tuned(rows))
    training = {name for name, module in tuned.named_modules() if module.training}
    assert {name for name in training if name} <= {n for n in training if "lora_dropout" in n}
    assert torch.equal(tuned.eval()(rows), tuned(rows))


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"blocks": 4}, "has 3 blocks"), ({"targets": ("nothing",)}, "nothing")],
)
def test_what_is_not_there_cannot_be_tuned(config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        tunable("spatial", **config)


@pytest.mark.slow
def test_networks_of_transformers(
    hugging_face_folder: Callable[..., Any], pixels: Pixels, tmp_path: Path
) -> None:
    import transformers as hf

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    config = hf.ViTConfig(**shape, num_attention_heads=4, image_size=32, patch_size=8)
    processor = hf.ViTImageProcessor(size={"height": 32, "width": 32})
    hugging_face_folder(hf.ViTModel(config), processor)
    stream = TransformersStream(encoder="transformers", weights="network", output="cls")
    tuned = TunableEncoder(
        registry.build(stream, tmp_path, "float32", "cpu"), EncodersConfig(blocks=1), 0
    )
    rows = flat(tuned, pixels)
    found = tuned(rows)
    plain = registry.build(stream, tmp_path, "float32", "cpu").encode(windows(tuned, rows))
    torch.testing.assert_close(found.detach(), plain.clone(), atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert loras(tuned)
    assert all(".2." in name for name in loras(tuned))
    learnt = [value.grad for name, value in loras(tuned).items() if "lora_B" in name]
    assert all(grad is not None and bool(grad.any()) for grad in learnt)
