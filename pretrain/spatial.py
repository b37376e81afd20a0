"""Pretrain the spatial encoder of signed-weather: a tiny CLIP on pictures and captions.

Usage: python -m pretrain.spatial --out cache_specs/signed-weather/clip-vision

Contrastive image-text training of an open_clip model on rendered stills (``material.py``). Every
picture is seen whole ("right five high left rest") and as a close-up, a 2x2 crop blown up as S2's
second scale does ("close five"). Captions with equal text count as one class, so the loss is the
symmetric softmax over distinct captions. Only the vision tower is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pretrain.export import clip_vision_folder
from pretrain.material import INPUT, PLACE_NAMES, SHAPES, Stills, stills
from spamo_cache.compat import declare_torchvision_ops

declare_torchvision_ops()

from open_clip.transformer import TextTransformer, VisionTransformer  # noqa: E402

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
WORDS = ("<pad>", "<start>", "right", "left", "rest", "same", "close", "nothing",
         *SHAPES, *(f"at-{name}" for name in PLACE_NAMES), "<end>")  # fmt: skip
CONTEXT = 8


class TinyCLIP(nn.Module):
    """open_clip's own towers at a size that trains on two cores."""

    def __init__(self, width: int, layers: int, patch: int) -> None:
        super().__init__()
        self.visual = VisionTransformer(
            image_size=INPUT, patch_size=patch, width=width, layers=layers, heads=width // 32,
            mlp_ratio=4.0, output_dim=64, act_layer=QuickGELU,
        )  # fmt: skip
        self.text = TextTransformer(
            context_length=CONTEXT, vocab_size=len(WORDS), width=64, heads=2, layers=2,
            output_dim=64, pool_type="argmax",
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.tensor(2.6592))
        with torch.no_grad():
            self.visual.positional_embedding[1:] = waves(INPUT // patch, width)

    def see(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised pictures -> embeddings (B, 64) and a map of them (B, 64, side, side)."""
        rows = self.visual.transformer(self.visual._embeds(pictures))
        rows = F.normalize(self.visual.ln_post(rows) @ self.visual.proj, dim=-1)
        side = round((rows.shape[1] - 1) ** 0.5)
        return rows[:, 0], rows[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    def logits(self, pictures: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """(B, 3, 64, 64) normalised and (C, 8) tokens -> (B, C)."""
        image = F.normalize(self.visual(pictures), dim=-1)
        return self.compare(image, captions)

    def compare(self, image: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        text = F.normalize(self.text(captions), dim=-1)
        return self.log_scale.exp().clamp(max=60) * image @ text.T


def waves(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of the patch's row and column, a start from which position is easy."""
    rates = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], 1)
    grid = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], 2)
    return 0.2 * grid.flatten(0, 1)


class QuickGELU(nn.Module):
    """CLIP's activation, as in the checkpoints SpaMo uses."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def tokens(captions: list[str]) -> torch.Tensor:
    """Word-level tokens; ``<end>`` has the highest number, which open_clip's pooling looks for."""
    rows = torch.zeros(len(captions), CONTEXT, dtype=torch.long)
    for row, caption in zip(rows, captions, strict=True):
        numbers = [WORDS.index(word) for word in ("<start>", *caption.split(), "<end>")]
        row[: len(numbers)] = torch.tensor(numbers)
    return rows


FULL = [
    f"right {shape} at-{place} left {left}"
    for shape in SHAPES for place in PLACE_NAMES for left in ("rest", "same")
]  # fmt: skip
SHAPE_ONLY = [f"right {shape}" for shape in SHAPES]
PLACE_ONLY = [f"at-{place}" for place in PLACE_NAMES]
CLOSE = [*(f"close {shape}" for shape in SHAPES), "close rest", "close nothing"]


def close_up(
    batch: torch.Tensor, facts: dict[str, torch.Tensor], centred: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A square crop of each picture at full size, its CLOSE caption, and the palms in it.

    A share ``centred`` of the crops lies around the signing hand, at any scale; of the others,
    half are S2's own quadrants and half lie anywhere.
    """
    count = len(batch)
    corner = torch.randint(0, 2, (count, 2)) / 2
    corner = torch.where(torch.rand(count, 1) < 0.5, corner, torch.rand(count, 2) / 2)
    side = torch.full((count, 1), 0.5)
    around = torch.rand(count, 1) < centred
    near = torch.empty(count, 1).uniform_(0.28, 0.7)
    shift = near * torch.empty(count, 2).uniform_(-0.2, 0.2)
    side = torch.where(around, near, side)
    corner = torch.where(around, facts["palms"][:, 0] - near / 2 + shift, corner)
    crops = _cut(batch, corner, side)
    palms = (facts["palms"] - corner[:, None]) / side[:, None]
    return crops, torch.where(around[:, 0], facts["shape"], _shown(palms, facts)), palms


def _cut(batch: torch.Tensor, corner: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Crops given in shares of the picture, enlarged to its size."""
    theta = torch.zeros(len(batch), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side[:, 0]
    theta[:, :, 2] = 2 * corner + side - 1
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    return F.grid_sample(batch, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _shown(palms: torch.Tensor, facts: dict[str, torch.Tensor]) -> torch.Tensor:
    """CLOSE caption of a crop in which the palms lie at these places; -100 where a hand is cut."""
    seen = ((palms > 0.15) & (palms < 0.85)).all(-1)
    partly = ((palms > -0.3) & (palms < 1.3)).all(-1)
    signing = torch.stack([torch.ones_like(facts["both"]), facts["both"]], 1)
    rest, nothing = len(SHAPES), len(SHAPES) + 1
    label = torch.full((len(palms),), -100)
    label = torch.where(~partly.any(1), nothing, label)
    label = torch.where(seen[:, 1] & ~facts["both"] & ~partly[:, 0], rest, label)
    return torch.where((seen & signing).any(1), facts["shape"], label)


def augment(batch: torch.Tensor) -> torch.Tensor:
    """uint8 -> normalised float with another exposure, colour cast and grain."""
    pictures = batch.float() / 255
    count = len(batch)
    gain = 1 + 0.15 * torch.randn(count, 1, 1, 1) + 0.06 * torch.randn(count, 3, 1, 1)
    pictures = (pictures - 0.5) * gain + 0.5 + 0.06 * torch.randn(count, 1, 1, 1)
    pictures = (pictures + 0.015 * torch.randn_like(pictures)).clamp(0, 1)
    return (pictures - MEAN) / STD


def symmetric(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """CLIP's loss where several pictures share a caption; label -100 has none."""
    known = label >= 0
    logits, label = logits[known], label[known]
    image_to_text = F.cross_entropy(logits, label)
    positive = F.one_hot(label, logits.shape[1]).T.float()
    present = positive.sum(1) > 0
    target = positive[present] / positive[present].sum(1, keepdim=True)
    text_to_image = F.cross_entropy(logits.T[present], target)
    return (image_to_text + text_to_image) / 2


def batch_of(material: Stills, index: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    names = ("shape", "place", "both", "palms")
    return material.pictures[index], {name: getattr(material, name)[index] for name in names}


def loss_of(
    model: TinyCLIP, material: Stills, index: torch.Tensor, *, warm_up: bool
) -> torch.Tensor:
    """Whole pictures against three kinds of captions, close-ups against a fourth.

    The warm-up shows hands alone: from whole pictures at once, no handshape is learnt within
    thousands of steps. For the same reason the patch under each palm is compared as well.
    """
    pictures, facts = batch_of(material, index)
    whole = augment(pictures)
    crops, close, palms = close_up(whole, facts, centred=0.9 if warm_up else 0.4)
    captions = tokens(CLOSE)
    if warm_up:
        zoomed, zoomed_map = model.see(crops)
        image = None
    else:
        images, maps = model.see(torch.cat([whole, crops]))
        image, zoomed = images.chunk(2)
        whole_map, zoomed_map = maps.chunk(2)
    loss = symmetric(model.compare(zoomed, captions), close)
    loss = loss + under_palms(model, zoomed_map, palms, facts)
    if image is None:
        return loss
    full = (facts["shape"] * len(PLACE_NAMES) + facts["place"]) * 2 + facts["both"].long()
    return (
        loss
        + under_palms(model, whole_map, facts["palms"], facts)
        + symmetric(model.compare(image, tokens(FULL)), full)
        + symmetric(model.compare(image, tokens(SHAPE_ONLY)), facts["shape"])
        + 0.5 * symmetric(model.compare(image, tokens(PLACE_ONLY)), facts["place"])
    )


def under_palms(
    model: TinyCLIP, rows: torch.Tensor, palms: torch.Tensor, facts: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Contrast of the map under both palms with the captions of what these hands show."""
    at = F.grid_sample(rows, 2 * palms[:, :, None] - 1, align_corners=False)[..., 0]
    left = torch.where(facts["both"], facts["shape"], len(SHAPES))
    label = torch.stack([facts["shape"], left], 1)
    label = torch.where(((palms > 0.05) & (palms < 0.95)).all(-1), label, -100)
    logits = model.compare(at.transpose(1, 2).flatten(0, 1), tokens(CLOSE))
    return symmetric(logits, label.flatten())


@torch.inference_mode()
def accuracy(model: TinyCLIP, material: Stills) -> dict[str, float]:
    """Zero-shot accuracy on signers and poses not trained on."""
    model.eval()
    pictures, facts = batch_of(material, torch.arange(len(material.shape)))
    whole = (pictures.float() / 255 - MEAN) / STD
    crops, close, _ = close_up(whole, facts, centred=0.0)
    around, around_label, _ = close_up(whole, facts, centred=1.0)
    found = {}
    for name, images, captions, label in (
        ("shape", whole, SHAPE_ONLY, facts["shape"]),
        ("place", whole, PLACE_ONLY, facts["place"]),
        ("close", crops, CLOSE, close),
        ("hand", around, CLOSE, around_label),
    ):
        guess = model.logits(images, tokens(captions)).argmax(1)
        found[name] = (guess == label)[label >= 0].float().mean().item()
    model.train()
    return found


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    material = stills(arguments.pictures, arguments.seed)
    held_out = stills(500, arguments.seed + 1)
    print(f"{len(material.shape)} pictures drawn in {time.monotonic() - started:.0f} s", flush=True)
    model = TinyCLIP(arguments.width, arguments.layers, arguments.patch)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=arguments.lr, weight_decay=0.05, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, arguments.lr, total_steps=arguments.steps, pct_start=0.05
    )
    log = []
    for step in range(1, arguments.steps + 1):
        index = torch.randint(0, len(material.shape), (arguments.batch,))
        loss = loss_of(model, material, index, warm_up=step <= arguments.warm_up)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0 or step == arguments.steps:
            line = {"step": step, "loss": loss.item(), **accuracy(model, held_out)}
            log.append({**line, "seconds": time.monotonic() - started})
            print(json.dumps(log[-1]), flush=True)
            clip_vision_folder(model.visual, arguments.out, size=INPUT, patch=arguments.patch)
            (arguments.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=80_000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--warm-up", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
