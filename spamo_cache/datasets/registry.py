"""The corpora known by name. A new one is a file beside this one and a name in the list below."""

from __future__ import annotations

import difflib
from pathlib import Path

from spamo_cache import config
from spamo_cache.config import TextConfig
from spamo_cache.datasets import csl_daily, how2sign, openasl, phoenix14t, youtube_asl
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import UsageError


def corpus(name: str) -> Corpus:
    """The corpus of this name.

    Raises:
        UsageError: unknown name; the nearest one is named.
    """
    known = CORPORA.get(name)
    if known is not None:
        return known
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

CORPORA: dict[str, Corpus] = {
    known.name: known
    for known in (
        _SIGNED_WEATHER,
        phoenix14t.CORPUS,
        csl_daily.CORPUS,
        how2sign.CORPUS,
        openasl.CORPUS,
        youtube_asl.CORPUS,
    )
}
