"""Run by a test in a process of its own: extract the clips of a JSON file, print what became."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spamo_cache.config import CacheSpec, parse
from spamo_cache.extract.extraction import extract
from spamo_cache.store.reader import FeatureStore

SPEC = {
    "name": "tiny",
    "streams": {
        # All streams are of the same decoded frames: one is enough to tell what was read.
        "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1]},
    },
    "store": {
        "chunk_rows": {"frame": 4, "window": 1},
        "shard_rows": {"frame": 1024, "window": 256},
    },
}


@dataclass(frozen=True)
class Clip:
    id: str
    source: str
    split: str = "train"
    start: float | None = None
    end: float | None = None
    crop: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Manifest:
    rows: list[Clip]
    corpus: str = "damaged"

    def __len__(self) -> int:
        return len(self.rows)

    def clips(self) -> list[Clip]:
        return self.rows

    def to_bytes(self) -> bytes:
        """Nothing for the store to keep: a manifest of Parquet would refuse many of the rows."""
        return b""


def main(clips: Path, root: Path, weights: Path, out: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    manifest = Manifest([Clip(**row) for row in json.loads(clips.read_text(encoding="utf-8"))])
    spec = parse(SPEC, CacheSpec, where="test")
    summary = extract(
        manifest, root, spec, weights, store_root=out, executor="serial", device="cpu"
    )
    store = FeatureStore.open(summary.stores["spatial"])
    sound = [clip.id for clip in manifest.rows if store.state(clip.id) == "ok"]
    intact = [id_ for id_ in sound if id_.startswith("intact")]
    # Of this process alone: ru_maxrss begins with what its parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return {
        "failed": dict(summary.failed),
        "ok": {id_: store.rows(id_) for id_ in sound},
        "intact": {id_: store.read([id_])[0].tolist() for id_ in intact},
        "peak_bytes": int(status.split("VmHWM:")[1].split()[0]) * 1024,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*map(Path, sys.argv[1:]))))
