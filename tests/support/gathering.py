"""VT-Align behind a small adapter; as a program, one of two processes that share a batch.

``python -m tests.support.gathering RANK RENDEZVOUS OUT``
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from spamo_cache.model.adapter import VTAlign
from spamo_cache.model.rows import Packed, Padded, join


class Aligned(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(5, 4)
        self.align = VTAlign(4)

    def forward(self, sign: Padded, text: Padded):
        return self.align(Padded(self.project(sign.rows), sign.lengths), text)


def material(clips):
    """Sign rows and sentences of some of six clips, all of different lengths."""
    chance = torch.Generator().manual_seed(1)
    lengths = [4, 9, 2, 7, 3, 5]
    parts = []
    for width in (5, 4):
        rows = torch.randn(sum(lengths), width, generator=chance).split(lengths)
        held = torch.tensor([lengths[clip] for clip in clips])
        parts.append(join([Packed(torch.cat([rows[clip] for clip in clips]), held)]))
    return parts


def main(rank: str, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2
    )
    module = Aligned()
    own = material([0, 1, 2] if rank == "0" else [3, 4, 5])
    shared = DistributedDataParallel(module)
    loss = shared(*own)
    loss.backward()
    alone = module.eval()(*own)
    found = {name: value.grad for name, value in module.named_parameters()}
    save_file(found | {"loss": loss.detach(), "alone": alone.detach()}, Path(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
