"""One of two processes that train the toy together: ``train_pair RANK RENDEZVOUS RUNS``.

``RUNS`` is JSON: folder -> what differs from the toy's pipeline.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from spamo_cache.errors import SpamoError
from spamo_cache.train import loop
from tests.support import toy


@atexit.register
def _tell() -> None:
    """How many threads of the process group are left, after all that ends with the process."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    sys.stdout.write(f"threads left: {sum('gloo' in name for name in names)}\n")


def main(rank: str, rendezvous: str, runs: str) -> None:
    torch.set_num_threads(1)
    # What a launcher would set; the port is replaced by a file, which no other test can hold.
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=2
    )
    loop.LOG_EVERY = 1
    for out, changes in json.loads(runs).items():
        toy.run(Path(out), toy.pipeline(**changes), manifest=toy.uneven())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except SpamoError as error:
        sys.stdout.write(f"{'heard' if error.heard else 'told'} {error}\n")
        sys.exit(error.exit_code)
