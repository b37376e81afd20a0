"""Folders of a web server, from the index page that nginx, Apache or Caddy make of a folder."""

from __future__ import annotations

import re
from http.client import HTTPException
from urllib.parse import unquote, urljoin
from urllib.request import urlopen

from spamo_cache.errors import StoreError

_MAX_PAGE_BYTES = 1 << 24
_TIMEOUT_SECONDS = 30
_LINK = re.compile(r"""href=["']?([^"'?#> ]+)/["' >?#]""", re.IGNORECASE)


def folders(url: str) -> list[str]:
    """Names of the folders that the page at ``url`` links to right below itself, sorted.

    Raises:
        StoreError: no such page, or the server cannot be reached.
    """
    here = f"{url}/"
    try:
        with urlopen(here, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 (http only)
            page = answer.read(_MAX_PAGE_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException, ValueError) as error:
        raise StoreError(
            f"the server gives no list of its folders: {error}",
            where=here,
            remedy="name a store by its whole address",
        ) from None
    links = [urljoin(here, link) for link in _LINK.findall(page)]
    names = {unquote(link.removeprefix(here)) for link in links if link.startswith(here)}
    return sorted(name for name in names if name and "/" not in name)
