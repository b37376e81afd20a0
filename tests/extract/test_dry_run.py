"""A dry run needs no weights: it says what they alone could tell, and what it knows without."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

import spamo_cache as sc
from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import SpatialStream
from spamo_cache.encoders import registry
from spamo_cache.errors import ConfigError
from spamo_cache.extract.summary import Summary

SPEC = Path(__file__).parents[2] / "cache_specs" / "spamo.yaml"


@pytest.fixture(autouse=True)
def _empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPAMO_CACHE", raising=False)


def plan(made: Path, *changes: str) -> Summary:
    return sc.extract(
        "frames", manifest=made / "manifest.csv", spec=SPEC, set=changes, device="cpu", dry_run=True
    )


def test_the_published_widths_are_known_without_the_weights(made: Path, tmp_path: Path) -> None:
    told = plan(made)
    spatial, motion = told.streams["spatial"], told.streams["motion"]
    assert (spatial.rows, motion.rows) == (158, 12)
    # Whole chunks of 32 frames and 8 windows, of 2 x 1024 and 1024 numbers in float16.
    assert (spatial.bytes, motion.bytes) == (10 * 32 * 2048 * 2, 10 * 8 * 1024 * 2)
    assert told.device_hours
    assert told.done == 10
    assert spatial.store.name == "spatial-unknown.zarr"
    assert not (tmp_path / "home").exists()


def test_what_only_the_weights_tell_is_said_to_be_unknown(made: Path) -> None:
    told = plan(made, "streams.motion.weights=lab/ours@main")
    assert told.streams["motion"].bytes is None
    assert told.streams["spatial"].bytes
    assert told.device_hours is None


def test_a_spec_that_cannot_be_is_refused_without_the_weights_too(made: Path) -> None:
    with pytest.raises(ConfigError, match="has no weights 'opena'"):
        plan(made, "streams.spatial.weights=opena")


@pytest.mark.slow
def test_cost_and_width_are_those_of_the_network() -> None:
    """Of the encoder itself, with random weights."""
    declare_torchvision_ops()
    import open_clip

    from spamo_cache.encoders import openclip
    from spamo_cache.encoders.encoder import meta_forward
    from spamo_cache.encoders.openclip_vit import PlainTower

    given = SpatialStream(encoder="open_clip", model="ViT-B-32", weights="openai", scales=(1,))
    outline = registry.without_weights(given, Path())
    assert outline is not None
    tower = openclip._from_model_config(open_clip.get_model_config("ViT-B-32"))
    tower.proj = None
    row, flops = meta_forward(PlainTower(tower, given), (1, 3, 224, 224))
    assert outline.width == row.shape[1]
    assert outline.flops_per_row == pytest.approx(flops, rel=0.1)
