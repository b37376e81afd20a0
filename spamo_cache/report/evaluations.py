"""Scorecards as a report sees them: ``<run>/evaluation/*.json`` and the lines behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu import sentence_chrf

from spamo_cache.errors import SpamoError
from spamo_cache.report.documents import read_lines, read_object


@dataclass(frozen=True, kw_only=True)
class Line:
    """One clip's translation beside its reference, in the corpus's convention."""

    id: str
    hypothesis: str
    reference: str
    failed: str | None = None
    """Why there were no features; its hypothesis is empty then."""
    chrf: float = 0.0
    """Of this sentence alone, in points of 100."""
    seen: bool = False
    """The reference is a training sentence too."""


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Why a score may mislead."""

    kind: str
    words: str
    grave: bool


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published system's scores, and what its protocol has otherwise."""

    system: str
    metrics: Mapping[str, float]
    protocol: str = ""
    source: str = ""
    certain: bool = True


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One scorecard; scores in points of 100."""

    name: str
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    signatures: Mapping[str, str]
    failed: Mapping[str, str]
    shuffled: bool
    rouge: str
    """The ROUGE-L to quote: a key of ``metrics``."""
    conventions: tuple[Mapping[str, Any], ...]
    """BLEU-4 under every convention; ``headline`` marks the corpus's own."""
    warnings: tuple[Warned, ...]
    """Grave ones first."""
    changed: Mapping[str, Any]
    """Keys of the cache spec that were changed for the test alone."""
    published: tuple[Published, ...]
    lines: tuple[Line, ...]


def read_evaluations(run: Path) -> tuple[Evaluation, ...]:
    """All scorecards of a run, by name.

    Raises:
        SpamoError: one of them is damaged.
    """
    folder = run / "evaluation"
    if not folder.is_dir():
        return ()
    cards = sorted(path for path in folder.glob("*.json") if not path.stem.endswith(".against"))
    return tuple(_evaluation(card) for card in cards)


def _evaluation(card: Path) -> Evaluation:
    document = read_object(card)
    lines = read_lines(card.with_name(f"{card.stem}.hypotheses.jsonl"))
    try:
        warned = [
            Warned(kind=str(w["kind"]), words=str(w["words"]), grave=bool(w.get("grave")))
            for w in document.get("warnings", ())
        ]
        return Evaluation(
            name=card.stem,
            n=int(document["n"]),
            metrics={key: float(value) for key, value in document["metrics"].items()},
            intervals={key: (low, high) for key, (low, high) in document["intervals"].items()},
            signatures=dict(document.get("signatures", {})),
            failed=dict(document.get("failed", {})),
            shuffled=bool(document.get("shuffled", False)),
            rouge=str((document.get("headline") or {}).get("rouge") or "rouge_l"),
            conventions=tuple(dict(one) for one in document.get("conventions", ())),
            warnings=tuple(sorted(warned, key=lambda warning: not warning.grave)),
            changed=dict(document.get("changed") or {}),
            published=tuple(_published(one) for one in document.get("published", ())),
            lines=tuple(_line(line) for line in lines),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpamoError(
            f"is no scorecard: {error!r}", where=card, remedy="evaluate the run again"
        ) from None


def _published(document: Mapping[str, Any]) -> Published:
    return Published(
        system=str(document["system"]),
        metrics={key: float(value) for key, value in document["metrics"].items()},
        protocol=str(document.get("protocol") or ""),
        source=str(document.get("source") or ""),
        certain=bool(document.get("certain", True)),
    )


def _line(document: Mapping[str, Any]) -> Line:
    hypothesis, reference = str(document["hypothesis"]), str(document["reference"])
    chrf = document.get("chrf")
    if chrf is None:
        chrf = sentence_chrf(hypothesis, [reference]).score
    return Line(
        id=str(document["id"]),
        hypothesis=hypothesis,
        reference=reference,
        failed=document.get("failed"),
        chrf=float(chrf),
        seen=bool(document.get("seen", False)),
    )
