"""Run folders with made-up numbers, written by the code that writes real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sacrebleu import sentence_chrf

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.report import write_report
from spamo_cache.runs.analyses import (
    AgainstChance,
    Alignment,
    Analysis,
    Entropies,
    Entropy,
    Measured,
    MutualInformation,
    SignEntropy,
    TokenExample,
    TokenRow,
    VisualTokens,
    WordScores,
    analysis_file,
)
from spamo_cache.runs.attributions import (
    ClipAttribution,
    LogLikelihoods,
    Shot,
    StreamAttribution,
    WordAttribution,
)
from spamo_cache.runs.documents import write_document
from spamo_cache.runs.folder import MetricsLine, RunFolder, RunSummary, identity
from spamo_cache.runs.records import (
    Convention,
    Published,
    Scorecard,
    ScoredClip,
    ScoreWarning,
    keep_card,
)
from spamo_cache.runs.tensors import write_tensors
from spamo_cache.train.run import settings

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


def metrics(strength: float) -> list[MetricsLine]:
    lines = []
    for step in range(10, 201, 10):
        loss = 0.2 + 3.4 * math.exp(-step / 40) + 0.05 * math.sin(step)
        lines.append(MetricsLine("align", step, {"loss": loss, "align": loss, "lr": 1e-3}))
    lines.append(MetricsLine("align", 200, {"dev_recall": 0.95}))
    for step in range(10, 401, 10):
        loss = 0.7 + 2.5 * math.exp(-step / 120) + 0.08 * math.cos(step)
        lines.append(MetricsLine("translate", step, {"loss": loss, "lm": loss, "align": 0.3}))
        if step % 100 == 0:
            bleu = strength * (1 - math.exp(-step / 150))
            dev = {"dev_loss": loss + 0.3, "dev_bleu": bleu, "best_bleu": bleu}
            lines.append(MetricsLine("translate", step, dev))
    return lines


@pytest.fixture
def build_run(tmp_path: Path, tiny: Any) -> Build:
    """Makes ``<tmp>/runs/<name>``, trained and evaluated; its stores are those of the real run."""
    real = RunFolder(tiny.run)

    def build(
        name: str = "default",
        *,
        strength: float = 40.0,
        finished: bool = True,
        evaluated: bool = True,
        repeat: int = 1,
        analysed: bool = False,
        stores: Mapping[str, Mapping[str, Any]] | None = None,
        done: Mapping[str, Any] | None = None,
        manifest: Manifest | None = None,
        **changes: Any,
    ) -> Path:
        run = tmp_path / "runs" / name
        config = Pipeline.model_validate(pipeline(name=name, **changes))
        about = real.read_about()
        parts = about.parts | {
            "pipeline": settings(config),
            "stores": {stream: about.fingerprints[stream] for stream in config.streams},
        }
        made = {
            stream: about.stores[stream].model_copy(update=(stores or {}).get(stream, {}))
            for stream in config.streams
        }
        record = about.model_copy(
            update={"identity": identity(parts), "parts": parts, "stores": made}
        )
        folder = RunFolder(run)
        folder.begin(config, record, manifest or real.sentences())
        for line in metrics(strength):
            folder.log(line)
        write_tensors(folder.model, {"weight": torch.zeros(2)})
        if finished:
            told = {
                "path": run, "reused": False, "best_bleu": strength, "best_step": 400,
                "recall": 0.95, "seconds": 185.0, "trained": 537_153, "failed": {},
            }  # fmt: skip
            folder.finish(RunSummary(**told | dict(done or {})))
        if evaluated:
            evaluation(run, strength, repeat)
        if analysed:
            analysis(run)
        return run

    return build


def evaluation(run: Path, strength: float, repeat: int) -> None:
    lines = [
        ScoredClip(
            id=f"clip:{n}-{r}", hypothesis=said, reference=meant,
            failed=None if said else "the file is cut off", seen=n == 0,
            chrf=sentence_chrf(said, [meant]).score,
        )
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
        card = Scorecard(
            run=run.name, name=name, split="test", protocol="default", n=len(lines),
            metrics=points,
            intervals={key: (value * 0.9, value * 1.1) for key, value in points.items()},
            signatures={"bleu4": "nrefs:1|tok:13a|version:2.6.0"},
            bootstrap={"resamples": 1000, "seed": 12345},
            headline={"rouge": "rouge_l", "tokenize": "13a"},
            conventions=conventions(strength), warnings=WARNINGS, published=PUBLISHED,
            failed={"clip:4-0": "the file is cut off"}, shuffled="shuffled" in name,
            changed=changed, stores={}, identity="i",
        )  # fmt: skip
        keep_card(run, card, lines)


WARNINGS = [
    ScoreWarning(
        kind="selected-on-test", words="Weights were kept by test.", clips=6, severity="warning"
    ),
    ScoreWarning(kind="failed", words="1 of 6 clips has no features.", clips=1),
]
PUBLISHED = [
    Published(
        system="SpaMo", metrics={"bleu4": 24.32, "rouge_l_official": 46.57},
        protocol="pairs of the batch stand in its prompts", source="arXiv 2408.10593",
    )
]  # fmt: skip


def conventions(strength: float) -> list[Convention]:
    names = ("cased, as it stands, 13a", "lower case, no final punctuation, none")
    return [
        Convention(
            name=name, lower=bool(n), final_dot=None, tokenize="13a", texts=f"{n}",
            bleu4=strength + n, headline=n == 0,
        )
        for n, name in enumerate(names)
    ]  # fmt: skip


def measured(strength: float) -> Measured:
    share = AgainstChance(value=strength * 0.7, chance=0.12, spread=0.02, p=0.001)
    scores = WordScores(clips=6, words=4.5, coverage=share, precision=share)
    bound = MutualInformation(nats=3 * strength, error=0.1, ceiling=3.7, temperature=0.1)
    return Measured(
        alignment=Alignment(
            clips=6, sentences=40, median_rank=3 / strength, modality_gap=1 - strength,
            recall_at_1=strength * 0.6, recall_at_5=strength * 0.8, recall_at_10=strength * 0.95,
            chance_at_1=1 / 40, chance_at_5=5 / 40, chance_at_10=10 / 40,
            own_cosine=strength * 0.8, other_cosine=0.1, cka=strength * 0.6, infonce=bound,
        ),
        tokens=VisualTokens(
            how="nearest by cosine", candidates=900, rows=400, permutations=999, gloss=scores,
            text=scores, examples=[EXAMPLE],
        ),
    )  # fmt: skip


EXAMPLE = TokenExample(
    clip="clip:0-0",
    gloss=["MONTAG", "REGEN"],
    text="am montag <b>regen</b>",
    rows=[
        TokenRow(token="montag", cosine=0.71, gloss=True, text=True),  # noqa: S106
        TokenRow(token="<i>", cosine=0.2, gloss=False, text=False),  # noqa: S106
    ],
)


def measures(strength: float = 0.9) -> Analysis:
    known = {"error": 0.02, "bias": 0.02, "bandwidth": 0.02, "points": 6}
    return Analysis(
        split="test", of=6, failed=0,
        after=measured(strength), before=measured(0.1), before_missing=None,
        entropy=Entropies(
            estimator="leave-one-out Gaussian kernels", dimensions=4, explained=0.9,
            text=Entropy(nats=5.1, **known),
            sign=SignEntropy(nats=4.7, gap=-0.4, divergence=0.3, **known),
            sign_before=SignEntropy(nats=2.0, gap=-3.1, divergence=4.0, **known),
        ),
    )  # fmt: skip


def analysis(run: Path) -> None:
    (run / "analysis/attribution").mkdir(parents=True)
    write_document(analysis_file(run, "test"), measures())
    length = 30
    bump = [math.exp(-((m - 10) ** 2) / 20) - 0.1 for m in range(length)]
    shots = [jpeg(n) for n in range(6)]
    for n, shot in enumerate(shots):
        (run / f"analysis/attribution/clip-{n}.jpg").write_bytes(shot)
    words = [
        WordAttribution(word=word, nats=sum(bump), curve=bump[k:] + bump[:k])
        for k, word in enumerate(SENTENCES[1][1].split())
    ]
    document = ClipAttribution(
        clip="clip:1-0", split="test", reference=SENTENCES[1][0], hypothesis=SENTENCES[1][1],
        method="integrated gradients", baseline="zeros", steps=32,
        nats=LogLikelihoods(clip=-1.0, baseline=-9.0, attributed=7.9, error=0.013),
        unit="frame", length=length,
        streams={"spatial": stream(0.7, bump), "motion": stream(0.3, [-v / 2 for v in bump[::-1]])},
        words=words,
        shots=[
            Shot(at=5 * n + 2, file=f"clip-{n}.jpg", sha256=sha256(shot).hexdigest())
            for n, shot in enumerate(shots)
        ],
        without=None,
    )  # fmt: skip
    write_document(run / "analysis/attribution/clip.json", document)


def stream(share: float, curve: list[float]) -> StreamAttribution:
    """A stream with a row per moment."""
    moments = list(range(len(curve)))
    return StreamAttribution(share=share, rows=curve, first=moments, last=moments, curve=curve)


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
def analyse() -> Callable[..., None]:
    """Leaves an analysis of test in a run's folder, its fields changed as named."""

    def write(run: Path, strength: float = 0.9, **changes: Any) -> None:
        analysis_file(run, "test").parent.mkdir(exist_ok=True)
        write_document(analysis_file(run, "test"), replace(measures(strength), **changes))

    return write


@pytest.fixture
def page() -> Callable[..., Page]:
    """Writes a page about folders and reads it."""

    def write(*runs: Path, **known: Any) -> Page:
        out = runs[0].parent / "report.html"
        return Page(write_report(list(runs), out, **known).read_text(encoding="utf-8"))

    return write
