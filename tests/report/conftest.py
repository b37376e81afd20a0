"""Run folders as training, evaluation and reproduction leave them, small and made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from spamo_cache.config import Pipeline
from spamo_cache.report import write_report

Build = Callable[..., Path]
VOID = {"meta", "link", "br", "hr", "img"}

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
        analysed: bool = False,
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
        if analysed:
            analysis(run)
        return run

    return build


def evaluation(run: Path, strength: float, repeat: int) -> None:
    lines = [
        {"id": f"clip:{n}-{r}", "hypothesis": said, "reference": meant,
         "failed": None if said else "the file is cut off", "seen": n == 0}
        for r in range(repeat)
        for n, (meant, said) in enumerate(SENTENCES)
    ]  # fmt: skip
    for name, share, changed in (
        ("test", 1.0, {}),
        ("test-shuffled", 0.08, {}),
        ("test@streams.motion.stride=4", 0.7, {"streams.motion.stride": 4}),
    ):
        points = {f"bleu{n}": strength * share * (1.6 - 0.15 * n) for n in range(1, 5)}
        points["chrf"] = strength * share * 1.4
        points |= {"ter": 100 - strength * share, "rouge_l": strength * share * 1.3}
        points |= {"rouge_l_official": strength * share * 1.2}
        points |= {"rouge_l_coco": strength * share * 1.25}
        card = {
            "run": run.name, "split": "test", "n": len(lines), "metrics": points,
            "intervals": {key: [value * 0.9, value * 1.1] for key, value in points.items()},
            "signatures": {"bleu4": "nrefs:1|tok:13a|version:2.6.0"},
            "failed": {"clip:4-0": "the file is cut off"},
            "shuffled": "shuffled" in name, "stores": {}, "identity": "i", "changed": changed,
            "conventions": conventions(strength), "warnings": WARNINGS,
            "published": PUBLISHED,
        }  # fmt: skip
        dump(run / "evaluation" / f"{name}.json", card)
        dump_lines(run / "evaluation" / f"{name}.hypotheses.jsonl", lines)


WARNINGS = [
    {"kind": "failed", "words": "1 of 6 clips has no features.", "clips": 1, "grave": False},
    {"kind": "selected-on-test", "words": "Weights were kept by test.", "clips": 6, "grave": True},
]
PUBLISHED = [
    {
        "system": "SpaMo", "metrics": {"bleu4": 24.32, "rouge_l_official": 46.57},
        "protocol": "pairs of the batch stand in its prompts", "source": "arXiv 2408.10593",
        "certain": True,
    }
]  # fmt: skip


def conventions(strength: float) -> list[dict[str, Any]]:
    names = ("cased, as it stands, 13a", "lower case, no final punctuation, none")
    return [
        {"name": name, "lower": bool(n), "final_dot": None, "tokenize": "13a",
         "bleu4": strength + n, "headline": n == 0}
        for n, name in enumerate(names)
    ]  # fmt: skip


def measures(strength: float) -> dict[str, Any]:
    recall = {f"recall_at_{k}": strength * share for k, share in ((1, 0.6), (5, 0.8), (10, 0.95))}
    chance = {f"chance_at_{k}": k / 40 for k in (1, 5, 10)}
    share = {"value": strength * 0.7, "chance": 0.12, "spread": 0.02, "p": 0.001}
    counted = {"clips": 6, "words": 4.5, "coverage": share, "precision": share}
    return recall | chance | {
        "sentences": 40, "median_rank": 3 / strength, "modality_gap": 1 - strength,
        "own_cosine": strength * 0.8, "other_cosine": 0.1, "cka": strength * 0.6,
        "infonce": {"nats": 3 * strength, "error": 0.1, "ceiling": 3.7, "temperature": 0.1},
        "tokens": {
            "how": "nearest by cosine", "candidates": 900, "rows": 400, "permutations": 999,
            "gloss": counted, "text": counted, "examples": EXAMPLES,
        },
    }  # fmt: skip


EXAMPLES = [
    {
        "clip": "clip:0-0", "gloss": ["MONTAG", "REGEN"], "text": "am montag <b>regen</b>",
        "rows": [
            {"token": "montag", "cosine": 0.71, "gloss": True, "text": True},
            {"token": "<i>", "cosine": 0.2, "gloss": False, "text": False},
        ],
    }
]  # fmt: skip


def analysis(run: Path) -> None:
    errors = {"sign": 0.02, "sign_before": 0.05, "text": 0.02}
    entropy = {
        "estimator": "leave-one-out Gaussian kernels", "unit": "nats", "dimensions": 4,
        "text": 5.1, "sign": 4.7, "sign_before": 2.0, "gap": -0.4, "divergence": 0.3,
        "divergence_before": 4.0, "error": errors, "bias": errors, "bandwidth": errors,
    }  # fmt: skip
    found = {"split": "test", "clips": 6, "of": 6, "entropy": entropy, **measures(0.9)}
    dump(run / "analysis/test.json", found | {"before": measures(0.1), "before_missing": None})
    length = 30
    bump = [math.exp(-((m - 10) ** 2) / 20) - 0.1 for m in range(length)]
    (run / "analysis/attribution").mkdir()
    for n in range(6):
        (run / f"analysis/attribution/clip-{n}.jpg").write_bytes(jpeg(n))
    document = {
        "clip": "clip:1-0", "split": "test", "reference": SENTENCES[1][0],
        "hypothesis": SENTENCES[1][1], "method": "integrated gradients", "length": length,
        "nats": {"error": 0.013}, "unit": "frame",
        "streams": {"spatial": {"share": 0.7, "curve": bump},
                    "motion": {"share": 0.3, "curve": [-v / 2 for v in bump[::-1]]}},
        "words": [{"word": word, "curve": bump[k:] + bump[:k]}
                  for k, word in enumerate(SENTENCES[1][1].split())],
        "shots": [{"at": 5 * n + 2, "file": f"clip-{n}.jpg"} for n in range(6)],
    }  # fmt: skip
    dump(run / "analysis/attribution/clip.json", document)


def jpeg(number: int) -> bytes:
    kept = BytesIO()
    Image.new("RGB", (96, 96), (40 * number, 120, 90)).save(kept, "JPEG")
    return kept.getvalue()


class Page(HTMLParser):
    """What a browser would make of a page: elements, text, and tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def page() -> Callable[..., Page]:
    """Writes a page about folders and reads it."""

    def write(*runs: Path, **known: Any) -> Page:
        out = runs[0].parent / "report.html"
        return Page(write_report(list(runs), out, **known).read_text(encoding="utf-8"))

    return write
