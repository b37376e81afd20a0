"""What a run said of a split's clips, beside what it should have said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spamo_cache import io
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.metrics.intervals import Measure
from spamo_cache.metrics.scores import sentence_bleu
from spamo_cache.model.text import normalise, scored
from spamo_cache.train.data import Examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The clips that are scored; lists of equal order.

    Attributes:
        clips: in the order of the manifest.
        hypotheses: what the LLM said, as it is scored (``text.hypotheses``); nothing for a clip
            without features.
        references: in the run's text convention.
    """

    clips: Sequence[Clip]
    hypotheses: Sequence[str]
    references: Sequence[str]


def answers(
    pipeline: Pipeline, clips: Sequence[Clip], data: Examples, decoded: Sequence[str]
) -> Answers:
    """Every clip of the split, unless the protocol drops those without features.

    Args:
        clips: of the split.
        data: those with features, which ``decoded`` are the translations of.
    """
    said = dict(zip(data.ids, decoded, strict=True))
    kept = [clip for clip in clips if clip.id in said or not pipeline.protocol.drop_missing]
    return Answers(
        clips=kept,
        hypotheses=[scored(said.get(clip.id, ""), pipeline.text) for clip in kept],
        references=[normalise(clip.text, pipeline.text) for clip in kept],
    )


def table(
    found: Answers,
    measured: Mapping[str, Measure],
    seen: Sequence[bool],
    failed: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """A line per clip: its texts as they are scored, why it failed if it did, and its own scores
    in points of 100."""
    columns = zip(
        found.clips,
        found.hypotheses,
        found.references,
        sentence_bleu(measured["bleu4"]),
        measured["chrf"].per_clip,
        measured["rouge_l"].per_clip,
        seen,
        strict=True,
    )
    for clip, hypothesis, reference, bleu, chrf, rouge_l, known in columns:
        yield {
            "id": clip.id,
            "hypothesis": hypothesis,
            "reference": reference,
            "failed": failed.get(clip.id),
            "bleu": bleu,
            "chrf": chrf,
            "rouge_l": rouge_l,
            "seen": known,
        }


def table_file(run: Path, name: str) -> Path:
    """Where an evaluation keeps its :func:`table`."""
    return run / "evaluation" / f"{name}.hypotheses.jsonl"


def read_table(run: Path, name: str) -> list[dict[str, Any]]:
    """The lines of :func:`table` that an evaluation has kept.

    Raises:
        UsageError: the run was not evaluated so.
        DamagedError: they are not those that its card was made of.
    """
    path = table_file(run, name)
    card = path.with_name(f"{name}.json")
    if not (path.is_file() and card.is_file()):
        raise UsageError(f"was not evaluated on {name}", where=run, remedy="evaluate it first")
    data = path.read_bytes()
    if io.read_json(card)["table_sha256"] != hashlib.sha256(data).hexdigest():
        raise DamagedError(
            "is not what the evaluation wrote",
            where=path,
            remedy="remove it, and evaluate the run again",
        )
    return [json.loads(line) for line in data.split(b"\n")[:-1]]
