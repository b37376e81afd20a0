"""The corpora known by name, with the conventions that papers use for each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spamo_cache import config
from spamo_cache.config import TextConfig
from spamo_cache.datasets import csl_daily, how2sign, phoenix14t
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is known about a corpus before a single file of it is read."""

    name: str
    title: str
    """Name as papers print it."""
    language: str
    """Spoken language of the translations, as the prompt names it."""
    sign_language: str
    terms: str
    """Terms of use in brief, and where they stand in full."""
    fps: float
    """Frames per second; nominal where videos differ."""
    text: TextConfig
    """Text convention and tokenizer of the corpus's headline score."""
    read: Callable[[Path], Manifest]
    """Corpus root -> manifest; raises CorpusError."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Published number of clips per split; empty where there is none."""
    labels: Callable[[Path], list[Path]] = field(default=lambda _: [])
    """Annotation files found below a root: their hashes tell label versions apart."""
    synthetic: bool = False
    """Drawn by a program: every page and table says so."""
    root: Callable[[], Path | None] = field(default=lambda: None)
    """Where the corpus lies when the user names no root."""


def corpus(name: str) -> Corpus:
    """The corpus of this name.

    Raises:
        UsageError: unknown name; the nearest one is named.
    """
    found = CORPORA.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), CORPORA, n=1, cutoff=0.0)[0]
    raise UsageError(
        f"no corpus is called {name!r}; nearest is {near!r}",
        remedy=f"choose among {', '.join(CORPORA)}, or describe your own by a manifest",
    )


def _read_signed_weather(root: Path) -> Manifest:
    # The drawing program is heavy; nothing but this corpus needs it.
    from spamo_cache.datasets import signed_weather  # noqa: PLC0415

    return signed_weather.manifest(root)


def _signed_weather_root() -> Path:
    return config.home() / "corpora" / "signed-weather"


_SIGNED_WEATHER = Corpus(
    name="signed-weather",
    title="signed-weather (synthetic)",
    language="German",
    sign_language="an invented toy language, no natural sign language",
    terms=(
        "Drawn by this project's own program and free under its licence (Apache-2.0); "
        "no person and no natural sign language is shown."
    ),
    fps=15.0,
    text=TextConfig(language="German"),
    read=_read_signed_weather,
    synthetic=True,
    root=_signed_weather_root,
)

_PHOENIX14T = Corpus(
    name="phoenix14t",
    title="RWTH-PHOENIX-Weather 2014 T",
    language="German",
    sign_language="German Sign Language (DGS)",
    terms=(
        "Distributed by RWTH Aachen for non-commercial research, to be cited when used. Full "
        "terms: https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX-2014-T/"
    ),
    fps=25.0,
    text=TextConfig(language="German", lower=True, final_dot=True),
    read=phoenix14t.read,
    expected={"train": 7_096, "dev": 519, "test": 642},
    labels=phoenix14t.labels,
)

_CSL_DAILY = Corpus(
    name="csl-daily",
    title="CSL-Daily",
    language="Chinese",
    sign_language="Chinese Sign Language (CSL)",
    terms=(
        "Given out by the University of Science and Technology of China for research, to those "
        "who sign its agreement (members of staff, not students). Full terms: "
        "https://ustc-slr.github.io/datasets/2021_csl_daily/"
    ),
    fps=30.0,
    text=TextConfig(language="Chinese", tokenize="zh"),
    read=csl_daily.read,
    expected={"train": 18_401, "dev": 1_077, "test": 1_176},
    labels=csl_daily.labels,
)

_HOW2SIGN = Corpus(
    name="how2sign",
    title="How2Sign",
    language="English",
    sign_language="American Sign Language (ASL)",
    terms=(
        "Licensed CC BY-NC 4.0: research without commercial use, with attribution. Full terms: "
        "https://how2sign.github.io/"
    ),
    fps=24.0,
    text=TextConfig(language="English"),
    read=how2sign.read,
    expected={"train": 31_165, "dev": 1_741, "test": 2_357},
    labels=how2sign.labels,
)

CORPORA: dict[str, Corpus] = {
    known.name: known for known in (_SIGNED_WEATHER, _PHOENIX14T, _CSL_DAILY, _HOW2SIGN)
}
