"""Folders of a web server, from the index page that nginx, Apache or Caddy make of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urljoin

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.client import web

_MAX_PAGE_BYTES = 1 << 24
_MAX_FOLDERS = 10_000
# Whatever it finds it passes over: a page of nothing but "href=" takes no longer than another.
_LINK = re.compile(r"""href=["']?([^"'?#> ]+)""", re.IGNORECASE)


def folders(url: str) -> list[str]:
    """Names of the folders that the page at ``url`` links to right below itself, sorted.

    Raises:
        StoreError: no such page, one too large, or the server cannot be reached.
    """
    here = f"{url}/"
    try:
        page = _page(here)
    except StoreError as error:
        raise StoreError(
            f"the server gives no list of its folders: {error.what}",
            where=here,
            remedy="name a store by its whole address",
        ) from None
    names = {unquote(link.removeprefix(here)) for link in _links(page, here)}
    found = sorted(name for name in names if name not in {"", ".", ".."} and "/" not in name)
    if len(found) > _MAX_FOLDERS:
        raise StoreError(f"links to more than {_MAX_FOLDERS:,} folders", where=here)
    return found


def _page(here: str) -> str:
    page = bytearray()
    for block in web().blocks(here):
        page += block
        if len(page) > _MAX_PAGE_BYTES:
            raise DamagedError(f"is larger than {_MAX_PAGE_BYTES:,} bytes", where=here)
    return page.decode("utf-8", "replace")


def _links(page: str, here: str) -> Iterator[str]:
    """Links to folders below, without the slash at their end."""
    for found in _LINK.finditer(page):
        if found[1].endswith("/"):
            try:
                link = urljoin(here, found[1])
            except ValueError:
                continue
            if link.startswith(here):
                yield link.removesuffix("/")
