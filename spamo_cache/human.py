"""Sizes, durations, ages and languages for people."""

from __future__ import annotations

from datetime import UTC, datetime

LANGUAGE_CODES = {
    "German": "de",
    "English": "en",
    "Chinese": "zh",
    "Spanish": "es",
    "French": "fr",
}
"""What browsers and the Hub call a language (ISO 639-1)."""


def size(count: float) -> str:
    """Bytes: ``512 B``, ``475.0 kB``, ``10.1 GB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds: ``1.5 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: int, one: str, many: str = "") -> str:
    """``1 clip``, ``2,349 clips``; ``many`` where that is not ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def age(moment: str) -> str:
    """How long ago a moment in ISO 8601 was; empty where it is none."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return ""
    return duration(seconds) if seconds < 86_400 else f"{seconds / 86_400:,.0f} days"


def rate(per_second: float, unit: str) -> str:
    """``30.1 frames/s``, ``12.5 steps/min``, ``4.0 runs/h``."""
    for seconds, name in ((1, "s"), (60, "min")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:,.1f} {unit}/{name}"
    return f"{3600 * per_second:,.1f} {unit}/h"
