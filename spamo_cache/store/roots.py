"""Which stores lie in a root, local or remote; names that could lead out of it are passed over."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from spamo_cache import io
from spamo_cache.errors import DamagedError
from spamo_cache.store.claims import Claims
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.plan import ABSENT
from spamo_cache.store.receipts import Receipts, load_receipt
from spamo_cache.store.records import Attributes, Receipt
from spamo_cache.store.remote import Location, RemotePath, location

_CORPUS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_THREADS = 16
_STORE = re.compile(r"(?P<stream>[A-Za-z0-9][A-Za-z0-9._-]{0,63})-[0-9a-f]{12}\.zarr")


def stores(
    root: str | Location, corpus: str | None = None, stream: str | None = None
) -> list[Location]:
    """The stores of a root, sorted by corpus and name; whether they can be opened is not asked.

    Args:
        corpus: only those of this corpus.
        stream: only those of this stream.

    Raises:
        StoreError: a remote root that cannot be listed.
        UsageError: an address that no root can have.
    """
    base = location(root)
    corpora = _folders(base) if corpus is None else [corpus]
    return [
        base / name / store
        for name in corpora
        if _CORPUS.fullmatch(name)
        for store in _folders(base / name)
        if (found := _STORE.fullmatch(store)) and stream in {None, found["stream"]}
    ]


def _folders(place: Location) -> list[str]:
    if isinstance(place, RemotePath):
        return place.folders()
    with io.reading(place):
        if not place.is_dir():
            return []
        return sorted(path.name for path in place.iterdir() if path.is_dir())


def finished(
    store: Location,
    attributes: Attributes,
    index: ClipIndex,
    among: Collection[int] | None = None,
) -> Iterator[Receipt]:
    """What a store vouches for, in order of partitions.

    Of a remote store, whose files a server may not list, what its index says.

    Args:
        among: only these partitions.

    Raises:
        DamagedError: a receipt of a remote store that is missing or broken.
    """
    done = set(np.unique(index.partition[index.state != ABSENT]).tolist())
    if isinstance(store, Path):
        here, claims = Receipts(store, attributes), Claims.beside(store)
        for number in sorted(done.union(here.partitions())):
            if among is None or number in among:
                with suppress(DamagedError):
                    yield claims.settled(number, partial(here.sound, number))
        return
    partitions = [number for number in sorted(done) if among is None or number in among]
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda number: load_receipt(store, attributes, number), partitions)
