"""Run folders as training, evaluation and reproduction leave them, small and made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spamo_cache.config import Pipeline

Build = Callable[..., Path]

SENTENCES = [
    ("am montag regen im norden", "am montag regen im norden"),
    (
        "am dienstag wird es im süden sonnig bei zwölf grad",
        "am dienstag ist es im süden sonnig bei elf grad",
    ),
    ("kein schnee in den bergen", "kein schnee im westen"),
    ("<script>alert('x')</script> & \"wind\"", "wind <b>aus</b> westen"),
    ("morgen nebel am fluss", ""),
    ("in der nacht minus drei grad", "am tag plus acht grad und wolken"),
]  # reference, hypothesis


def pipeline(**changes: Any) -> dict[str, Any]:
    stage = {"steps": 200, "batch": 16, "lr": 1e-3}
    known = {
        "name": "default",
        "question": "Does the whole path work, from video files to sentences?",
        "corpus": "signed-weather",
        "spec": "signed-weather",
        "text": {"language": "German"},
        "llm": {"weights": "llm", "tuning": {"r": 32, "targets": ["q", "k", "v", "o"]}},
        "adapter": {"width": 192, "scale": "embeddings"},
        "align": stage | {"center": True},
        "translate": stage | {"steps": 400, "alpha": 0.5, "eval_every": 100},
    }
    return Pipeline.model_validate(known | changes).model_dump(mode="json")


def metrics(strength: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(10, 201, 10):
        loss = 0.2 + 3.4 * math.exp(-step / 40) + 0.05 * math.sin(step)
        lines.append({"stage": "align", "step": step, "loss": loss, "align": loss, "lr": 1e-3})
    lines.append({"stage": "align", "step": 200, "dev_recall": 0.95})
    for step in range(10, 401, 10):
        loss = 0.7 + 2.5 * math.exp(-step / 120) + 0.08 * math.cos(step)
        lines.append({"stage": "translate", "step": step, "loss": loss, "lm": loss, "align": 0.3})
        if step % 100 == 0:
            bleu = strength * (1 - math.exp(-step / 150))
            lines.append({"stage": "translate", "step": step, "dev_bleu": bleu, "best_bleu": bleu})
    return lines


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def dump_lines(path: Path, values: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    path.write_text(text, encoding="utf-8")


def store(place: Path, stream: str) -> None:
    spec: dict[str, Any] = {"encoder": "open_clip", "model": None, "scales": [1, 2]}
    if stream == "motion":
        spec = {"encoder": "videomae", "window": 16, "stride": 8}
    attributes = {
        "spec": spec, "weights": f"{stream}-encoder", "weights_sha256": "ab" * 32,
        "width": 256 if stream == "spatial" else 128, "clips": 900,
    }  # fmt: skip
    dump(place / "zarr.json", {"attributes": attributes})


@pytest.fixture
def build_run(tmp_path: Path) -> Build:
    """Makes ``<tmp>/runs/<name>``, trained and evaluated."""

    def build(
        name: str = "default",
        *,
        strength: float = 40.0,
        finished: bool = True,
        evaluated: bool = True,
        repeat: int = 1,
        **changes: Any,
    ) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        config = pipeline(name=name, **changes)
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        dump_lines(run / "metrics.jsonl", metrics(strength))
        places = {}
        for stream in config["streams"]:
            places[stream] = str(tmp_path / f"{stream}.zarr")
            store(tmp_path / f"{stream}.zarr", stream)
        fingerprints = {stream: stream[0] * 64 for stream in config["streams"]}
        about = {
            "parts": {"stores": fingerprints}, "places": places,
            "versions": {"spamo-cache": "0.1.0", "torch": "2.7"},
        }  # fmt: skip
        dump(run / "run.json", about)
        if finished:
            done = {"recall": 0.95, "best_bleu": strength, "trained": 537_153, "seconds": 185.0}
            dump(run / "done.json", done)
        if evaluated:
            evaluation(run, strength, repeat)
        return run

    return build


def evaluation(run: Path, strength: float, repeat: int) -> None:
    lines = [
        {"id": f"clip:{n}-{r}", "hypothesis": said, "reference": meant,
         "failed": None if said else "the file is cut off"}
        for r in range(repeat)
        for n, (meant, said) in enumerate(SENTENCES)
    ]  # fmt: skip
    for split, share in (("test", 1.0), ("test-shuffled", 0.08)):
        points = {f"bleu{n}": strength * share * (1.6 - 0.15 * n) for n in range(1, 5)}
        points["chrf"] = strength * share * 1.4
        card = {
            "run": run.name, "split": "test", "n": len(lines), "metrics": points,
            "intervals": {key: [value * 0.9, value * 1.1] for key, value in points.items()},
            "signatures": {"bleu4": "nrefs:1|tok:13a|version:2.6.0"},
            "failed": {"clip:4-0": "the file is cut off"},
            "shuffled": split != "test", "stores": {}, "identity": "i",
        }  # fmt: skip
        dump(run / "evaluation" / f"{split}.json", card)
        dump_lines(run / "evaluation" / f"{split}.hypotheses.jsonl", lines)
