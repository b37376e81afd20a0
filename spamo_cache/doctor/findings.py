"""What a check says: findings, worst first, and the facts they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
"""Only an ``error`` makes results wrong; a ``warning`` is to be known, a ``note`` good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing to know, with what to do about it."""

    level: Level
    what: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Findings, worst first, and the facts they rest on (JSON-ready)."""

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether something found would make results wrong."""
        return any(finding.level == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "failed": self.failed,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": dict(self.facts),
        }


def diagnosis(findings: Iterable[Finding], facts: Mapping[str, Any]) -> Diagnosis:
    """Put findings in order: errors, warnings, notes; each kind as found."""
    rank = {"error": 0, "warning": 1, "note": 2}
    return Diagnosis(tuple(sorted(findings, key=lambda found: rank[found.level])), facts)
