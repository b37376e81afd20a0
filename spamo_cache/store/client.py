"""Connections to the servers of remote roots, and their errors in this package's words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from spamo_cache.errors import DamagedError, StoreError, UsageError

if TYPE_CHECKING:
    from spamo_cache.store.web import Web

_RETRIES = 3

_clients: dict[tuple[int, str, str | None], Any] = {}
_webs: dict[int, Web] = {}
"""By process: a child that was forked must not talk on its parent's connections."""


def obstore() -> Any:
    """The library, an extra.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import obstore as library  # noqa: PLC0415 (needed for remote roots only)
    except ModuleNotFoundError:
        raise UsageError(
            "remote roots need obstore", remedy="pip install 'spamo-cache[remote]'"
        ) from None
    return library


def web() -> Web:
    """What reads from web servers; made once in each process.

    Raises:
        UsageError: urllib3, an extra, is not installed.
    """
    try:
        from spamo_cache.store.web import Web  # noqa: PLC0415 (needed for remote roots only)
    except ModuleNotFoundError:
        raise UsageError(
            "remote roots need urllib3", remedy="pip install 'spamo-cache[remote]'"
        ) from None
    if os.getpid() not in _webs:
        _webs[os.getpid()] = Web(_RETRIES)
    return _webs[os.getpid()]


def connected(url: str) -> Any:
    """A client for the bucket of an address; made once in each process.

    Raises:
        StoreError: in a process forked from one that has used any.
    """
    base = "/".join(url.split("/")[:3])
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    wanted = (os.getpid(), base, endpoint)
    if wanted not in _clients:
        if any(pid != os.getpid() for pid, _, _ in _clients):
            # obstore's threads do not survive a fork: it would wait for them forever.
            raise StoreError(
                "remote roots were used before this process was forked",
                where=base,
                remedy="start workers by spawn (multiprocessing_context='spawn'), or"
                " `spamo-cache store pull` the store",
            )
        _clients[wanted] = _connect(base, endpoint)
    return _clients[wanted]


def _connect(base: str, endpoint: str | None) -> Any:
    stores = obstore().store
    options: dict[str, Any] = {
        # Plain HTTP only where the user's own address says so.
        "allow_http": (endpoint or "").startswith("http:"),
        "connect_timeout": "10s",
        "read_timeout": "60s",
        "timeout": "1h",
    }
    patience: dict[str, Any] = {"max_retries": _RETRIES, "retry_timeout": timedelta(minutes=2)}
    bucket = base.removeprefix("s3://")
    return stores.S3Store(bucket, client_options=options, retry_config=patience)


@contextmanager
def told(path: object) -> Iterator[None]:
    """Turn what obstore raises, and an answer that is too slow, into this package's errors."""
    errors = obstore().exceptions
    try:
        yield
    except FileNotFoundError:
        raise missing(path) from None
    except (errors.PermissionDeniedError, errors.UnauthenticatedError):
        raise StoreError(
            "the server refuses",
            where=path,
            remedy="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket set"
            " AWS_SKIP_SIGNATURE=true",
        ) from None
    except ValueError as error:
        raise StoreError(f"no file can be called so: {_short(error)}", where=path) from None
    except (errors.BaseError, TimeoutError) as error:
        raise StoreError(
            f"the server does not answer as it should: {_short(error)}",
            where=path,
            remedy="check the address, the network, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY; for a public bucket set AWS_SKIP_SIGNATURE=true",
        ) from None


def missing(path: object) -> DamagedError:
    """The error of a file that is not there."""
    return DamagedError("a file of the store is missing", where=path)


def _short(error: Exception) -> str:
    first = str(error).split("Debug source", 1)[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", first)).strip()[:300]
