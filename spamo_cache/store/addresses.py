"""Addresses in datasets of the Hugging Face Hub: ``hf://datasets/ORG/NAME[@REVISION][/PATH]``."""

from __future__ import annotations

import re
from typing import NamedTuple

from spamo_cache.errors import StoreError

_REVISION = r"refs/(?:pr|convert)/[\w.-]+|(?:[\w.+=-]|%[0-9A-Fa-f]{2})+"
_SEGMENT = r"(?!\.{1,2}(?:/|$))[\w .,+=()\[\]-]+"
HUB_ADDRESS = re.compile(
    rf"hf://datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>{_REVISION}))?"
    rf"(?:/(?P<path>{_SEGMENT}(?:/{_SEGMENT})*))?",
    re.ASCII,
)
"""A place in a dataset of the Hub; a slash in the name of a branch is written ``%2F``."""


class Place(NamedTuple):
    """What an address names."""

    repo: str
    revision: str | None
    path: str

    @classmethod
    def of(cls, url: str) -> Place:
        """The parts of an address.

        Raises:
            StoreError: it is none, as that of a file with a name that no store has.
        """
        match = HUB_ADDRESS.fullmatch(url)
        if match is None:
            raise StoreError("no place in a dataset of the Hub", where=url)
        revision = match["revision"]
        return cls(match["repo"], revision and revision.replace("%2F", "/"), match["path"] or "")

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision.replace('/', '%2F')}"
        return f"hf://datasets/{self.repo}{revision}{self.path and f'/{self.path}'}"
