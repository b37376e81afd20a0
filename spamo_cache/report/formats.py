"""Numbers, metrics and settings as the page words them."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

METRICS = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "chrf": "chrF",
    "ter": "TER",
    "rouge_l": "ROUGE-L",
    "rouge_l_official": "ROUGE-L, release",
    "rouge_l_coco": "ROUGE-L, MSCOCO",
    "bleurt": "BLEURT",
}
"""Key of a scorecard -> name as papers print it, in the order of a table."""


def metric_name(key: str) -> str:
    """A metric's name; an unknown one keeps its key."""
    return METRICS.get(key, key)


def slug(words: str) -> str:
    """Words as part of an address: small letters, digits and hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))


def anchor(place: str, title: str) -> str:
    """Where a section begins; unique, since no name of a place has a dot."""
    return f"{place}.{slug(title)}"


def number(value: float | None, digits: int = 2) -> str:
    """A number as a table shows it; an absent one is a dash, a negative one has a real minus."""
    if value is None:
        return "–"
    shown = f"{abs(value):,.{digits}f}"
    return f"−{shown}" if value < 0 and any(digit in shown for digit in "123456789") else shown


def signed(value: float | None, digits: int = 1) -> str:
    """A difference with its sign."""
    return number(value, digits) if value is None or value < 0 else f"+{number(value, digits)}"


def chance(p: float | None) -> str:
    """A p-value, with as many digits as one reads."""
    if p is None:
        return number(p)
    return "< 0.001" if p < 0.001 else number(p, 3)


def millions(count: float) -> str:
    """A number of parameters: ``0.5 M``, ``23.5 M``; small ones in full."""
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count:,.0f}"


def sentence(words: object) -> str:
    """Words with a capital before and a full stop behind; nothing of nothing."""
    bare = str(words or "").strip().rstrip(".")
    return f"{bare[:1].upper()}{bare[1:]}." if bare else ""


def assignments(changes: Mapping[str, Any]) -> str:
    """Changed settings: ``streams.motion.stride = 4, compute = float32``."""
    return ", ".join(f"{key} = {value}" for key, value in changes.items())


def jpeg_address(jpeg: bytes) -> str:
    """The address of a picture that lies within the page."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"
