"""The corpora known by name. A new one is a file beside this one and a name in the list below."""

from __future__ import annotations

import difflib
from pathlib import Path

from spamo_cache.config import TextConfig
from spamo_cache.datasets import csl_daily, csl_news, how2sign, openasl, phoenix14t, youtube_asl
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


def _signed_weather(name: str, title: str) -> Corpus:
    def read(root: Path) -> Manifest:
        # The drawing program is heavy; nothing but this corpus needs it.
        from spamo_cache.datasets import signed_weather  # noqa: PLC0415

        return signed_weather.manifest(root, name)

    return Corpus(
        name=name,
        title=title,
        language="German",
        sign_language="an invented toy language, no natural sign language",
        terms=(
            "Drawn by this project's own program and free under its licence (Apache-2.0); "
            "no person and no natural sign language is shown."
        ),
        fps=15.0,
        text=TextConfig(language="German"),
        read=read,
        synthetic=True,
    )


CORPORA: dict[str, Corpus] = {
    known.name: known
    for known in (
        _signed_weather("signed-weather", "signed-weather (synthetic)"),
        _signed_weather("signed-weather-coast", "signed-weather-coast (synthetic)"),
        phoenix14t.CORPUS,
        csl_daily.CORPUS,
        csl_news.CORPUS,
        how2sign.CORPUS,
        openasl.CORPUS,
        youtube_asl.CORPUS,
    )
}
