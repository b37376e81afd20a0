"""One of two processes that train the toy together: ``python pair.py RANK RENDEZVOUS OUT``."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from spamo_cache.train import loop


def main(rank: str, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    # What a launcher would set; the port is replaced by a file, which no other test can hold.
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2
    )
    loop.LOG_EVERY = 1
    toy = runpy.run_path(str(Path(__file__).with_name("toy.py")))
    toy["run"](Path(out), toy["pipeline"](**toy["QUIET"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
