"""Pretrain the motion encoder of signed-weather: a tiny VideoMAE on windows of random signs.

Usage: python -m pretrain.motion --out cache_specs/signed-weather/videomae

Two objectives on the same windows of ``material.py``: masked video modelling (75 % tubes,
normalised pixels, transformers' own VideoMAEForPreTraining), and, read from token 0 of the last
hidden state, which movement is under way a quarter and three quarters into the window, whether the
head shakes, and the displacement of the palm frame by frame. Token 0 because that is the row SpaMo
keeps. The tokens under the moving palm have to tell the same of their own two frames: without
that, token 0 learns nothing within thousands of steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pretrain.export import write_folder
from pretrain.material import INPUT, MOVEMENTS, Scenes, scenes
from spamo_cache.compat import declare_torchvision_ops

declare_torchvision_ops()

from transformers import VideoMAEConfig, VideoMAEForPreTraining  # noqa: E402

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
WINDOW = 16
AT = (4, 11)
"""Frames of the window whose movement token 0 has to name."""
SPEED_UNIT = 0.1  # shoulder widths a frame: about the spread of the speeds


class Heads(nn.Module):
    """What token 0 must tell; thrown away after pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.movement = nn.Linear(width, len(AT) * (len(MOVEMENTS) + 1))
        self.speed = nn.Linear(width, 2 * WINDOW)
        self.shake = nn.Linear(width, 1)
        self.local = nn.Linear(width, 4 + len(MOVEMENTS) + 1)

    def forward(self, token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        token = self.norm(token)
        movement = self.movement(token).unflatten(1, (len(AT), -1))
        return movement, self.speed(token).unflatten(1, (WINDOW, 2)), self.shake(token)[:, 0]


def configuration(width: int, layers: int, patch: int) -> VideoMAEConfig:
    return VideoMAEConfig(
        image_size=INPUT, patch_size=patch, num_frames=WINDOW, tubelet_size=2, hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=width // 32, intermediate_size=4 * width,
        decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=128, norm_pix_loss=True, use_mean_pooling=False,
        initializer_range=0.06,
    )  # fmt: skip


def windows(material: Scenes, count: int) -> dict[str, torch.Tensor]:
    """Random windows with their targets."""
    picked = torch.randint(0, len(material.pictures), (count,)).tolist()
    starts = [int(torch.randint(0, len(material.pictures[i]) - WINDOW + 1, ())) for i in picked]

    def gather(field: list[torch.Tensor]) -> torch.Tensor:
        pairs = zip(picked, starts, strict=True)
        return torch.stack([field[i][start : start + WINDOW] for i, start in pairs])

    every = gather(material.movement)
    movement = every[:, AT]
    return {
        "video": gather(material.pictures),
        "movement": torch.where(movement < 0, len(MOVEMENTS), movement),
        "speed": gather(material.speed) / SPEED_UNIT,
        "movements": torch.where(every[:, ::2] < 0, len(MOVEMENTS), every[:, ::2]),
        "palm": gather(material.palm)[:, ::2],
        "shake": gather(material.head_shake).float().mean(1).gt(0.4).float(),
    }


def augment(video: torch.Tensor) -> torch.Tensor:
    """uint8 -> normalised float; one exposure and colour cast per window, grain per pixel."""
    count = len(video)
    pixels = video.float() / 255
    gain = 1 + 0.15 * torch.randn(count, 1, 1, 1, 1) + 0.06 * torch.randn(count, 1, 3, 1, 1)
    pixels = (pixels - 0.5) * gain + 0.5 + 0.06 * torch.randn(count, 1, 1, 1, 1)
    return (pixels.clamp(0, 1) - MEAN) / STD


def tokens(model: VideoMAEForPreTraining, video: torch.Tensor) -> torch.Tensor:
    """(B, 128, width) last hidden state before the final layer norm; extraction keeps row 0."""
    return model.videomae(video, output_hidden_states=True).hidden_states[-1]


def under_palm(heads: Heads, rows: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss of what the tokens under the right palm tell of their own two frames."""
    side = round((rows.shape[1] / (WINDOW // 2)) ** 0.5)
    grid = rows.unflatten(1, (WINDOW // 2, side, side)).flatten(0, 1).permute(0, 3, 1, 2)
    at = 2 * batch["palm"].flatten(0, 1)[:, None, None] - 1
    found = F.grid_sample(grid, at, padding_mode="border", align_corners=False)[..., 0, 0]
    told = heads.local(heads.norm(found))
    speed = batch["speed"].unflatten(1, (WINDOW // 2, 2)).flatten(0, 1).flatten(1)
    named = F.cross_entropy(told[:, 4:], batch["movements"].flatten())
    return named + F.smooth_l1_loss(told[:, :4], speed)


def tubes(count: int, config: VideoMAEConfig) -> torch.Tensor:
    """Masks that hide the same three quarters of the patches in every frame."""
    side = config.image_size // config.patch_size
    hidden = torch.rand(count, side * side).argsort(1) < side * side * 3 // 4
    return hidden.repeat(1, config.num_frames // config.tubelet_size)


def losses(
    model: VideoMAEForPreTraining, heads: Heads, batch: dict[str, torch.Tensor], weight: float
) -> torch.Tensor:
    video = augment(batch["video"])
    half = len(video) // 2
    masked = model(video[:half], bool_masked_pos=tubes(half, model.config)).loss
    rows = tokens(model, video)
    movement, speed, shake = heads(rows[:, 0])
    named = F.cross_entropy(movement.flatten(0, 1), batch["movement"].flatten())
    moved = F.smooth_l1_loss(speed, batch["speed"])
    shaken = F.binary_cross_entropy_with_logits(shake, batch["shake"])
    return weight * masked + named + moved + 0.3 * shaken + under_palm(heads, rows, batch)


@torch.inference_mode()
def score(
    model: VideoMAEForPreTraining, heads: Heads, batch: dict[str, torch.Tensor]
) -> dict[str, float]:
    """On held-out signers: movement accuracy, of opposite pairs alone, and R2 of the speed."""
    model.eval()
    movement, speed, shake = heads(tokens(model, (batch["video"] / 255 - MEAN) / STD)[:, 0])
    right = movement.argmax(-1) == batch["movement"]
    signing = batch["movement"] < len(MOVEMENTS)
    residual = (speed - batch["speed"]).square().mean((0, 1))
    found = {
        "movement": right[signing].float().mean().item(),
        "shake": ((shake > 0) == batch["shake"].bool()).float().mean().item(),
        "r2": (1 - residual / batch["speed"].var((0, 1))).tolist(),
    }
    for name in ("up", "cw", "left"):
        found[name] = right[batch["movement"] == MOVEMENTS.index(name)].float().mean().item()
    model.train()
    return found


def save(model: VideoMAEForPreTraining, folder: Path) -> None:
    """The encoder alone, in the key names of the published VideoMAE checkpoints."""
    model.videomae.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    from safetensors.torch import load_file

    processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "image_mean": MEAN.flatten().tolist(),
        "image_std": STD.flatten().tolist(),
        "resample": 2,
        "size": {"shortest_edge": INPUT},
        "crop_size": {"height": INPUT, "width": INPUT},
    }
    write_folder(folder, load_file(folder / "model.safetensors"), config, processor)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    material = scenes(arguments.scenes, arguments.seed + 100, arguments.threads)
    held_out = windows(scenes(150, arguments.seed + 101, arguments.threads), 500)
    print(f"{len(material.pictures)} scenes in {time.monotonic() - started:.0f} s", flush=True)
    model = VideoMAEForPreTraining(
        configuration(arguments.width, arguments.layers, arguments.patch)
    )
    heads = Heads(arguments.width)
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=arguments.lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, arguments.lr, total_steps=arguments.steps, pct_start=0.08
    )
    log = []
    for step in range(1, arguments.steps + 1):
        loss = losses(model, heads, windows(material, arguments.batch), weight=0.5)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0 or step == arguments.steps:
            line = {"step": step, "loss": loss.item(), **score(model, heads, held_out)}
            log.append({**line, "seconds": time.monotonic() - started})
            print(json.dumps(log[-1]), flush=True)
            save(model, arguments.out)
            (arguments.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
