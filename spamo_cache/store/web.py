"""Reading from web servers, which may belong to anybody.

Whatever a server sends or withholds, a request ends: after as many bytes as were asked for, and
after a time in which a slow line would have sent them. Redirects stay with HTTP, never go from
https to http, and never from a public address to a private one, where only this machine can look.
Nothing is decompressed.
"""

from __future__ import annotations

import io
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from spamo_cache.errors import DamagedError, StoreError

SILENT_SECONDS = 60.0
"""Between two bytes."""
_GRACE_SECONDS = 30.0
_SLOWEST_BYTES = 4096
"""A second, beyond the grace; a modem's rate."""
_BLOCK_BYTES = 1 << 20
_CONNECT_SECONDS = 10.0
_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_PAGE_BYTES = 1 << 24
_MAX_FOLDERS = 10_000
# Whatever it finds it passes over: a page of nothing but "href=" takes no longer than another.
_LINK = re.compile(r"""href=["']?([^"'?#> ]+)""", re.IGNORECASE)


def too_slow() -> TimeoutError:
    """What is raised of an answer that does not come, or not fast enough."""
    return TimeoutError(f"it sends less than {_SLOWEST_BYTES} bytes a second")


class Pace:
    """How long an answer may still take; time counts while it is waited for."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._bytes = 0

    def left(self) -> float:
        """Seconds until the next byte has to be there.

        Raises:
            TimeoutError: the answer is too slow already.
        """
        left = _GRACE_SECONDS + self._bytes / _SLOWEST_BYTES - self._waited
        if left <= 0:
            raise too_slow()
        return min(left, SILENT_SECONDS)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[int], None]]:
        """Count the time of the block, and the bytes that it calls the given function with."""
        started = time.monotonic()
        try:
            yield self._count
        finally:
            self._waited += time.monotonic() - started

    def _count(self, count: int) -> None:
        self._bytes += count


class _Paced(io.RawIOBase):
    """What a socket receives, as long as it comes fast enough: headers, too."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # Keeps the socket open for as long as this is read.
        self._file = connection.makefile("rb", buffering=0)
        self._pace = Pace()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(self._pace.left())
        with self._pace.waiting() as received:
            try:
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                raise too_slow() from None
            received(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **extra: Any) -> None:
        super().__init__(sock, *args, **extra)
        self.fp.close()
        self.fp = io.BufferedReader(_Paced(sock))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Web:
    """Reads files of web servers; safe between threads, one for each process."""

    def __init__(self, retries: int) -> None:
        self._retry = urllib3.Retry(
            total=retries,
            redirect=False,
            status_forcelist=(429, 500, 502, 503, 504),
            backoff_factor=0.5,
            # A server may ask for a wait of years.
            respect_retry_after_header=False,
            raise_on_status=False,
        )
        self._managers: dict[str | None, Any] = {}

    def size(self, url: str) -> int | None:
        """Bytes of a file; None if there is none.

        Raises:
            StoreError: the server cannot be reached, refuses, or tells no size.
        """
        with self._answer("HEAD", url, {}) as answer:
            if answer.status in {404, 410}:
                return None
            _check(answer, url, 200)
            answer.drain_conn()
            length = answer.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal() and len(length) < 20):
                raise StoreError("the server does not tell the size of a file", where=url)
            return int(length)

    def blocks(self, url: str, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """A file as it comes; from byte ``start`` up to ``end``, where they are given.

        Raises:
            DamagedError: there is no such file, or it begins behind the range.
            StoreError: the server cannot be reached, refuses, or has no ranges.
        """
        asked = {} if start is None or end is None else {"Range": f"bytes={start}-{end - 1}"}
        with self._answer("GET", url, asked) as answer:
            if asked and answer.status == 416:
                raise DamagedError(f"ends before byte {end}", where=url)
            place = answer.headers.get("Content-Range", "")
            if asked and (
                answer.status == 200
                or (answer.status == 206 and not place.startswith(f"bytes {start}-"))
            ):
                raise StoreError(
                    "the server gives no ranges of files",
                    where=url,
                    remedy="pull the store, or serve it by nginx, Caddy, Apache or S3",
                )
            _check(answer, url, 206 if asked else 200)
            while block := answer.read(_BLOCK_BYTES, decode_content=False):
                yield block

    def folders(self, url: str) -> list[str]:
        """Names of the folders that the page at ``url`` links to right below itself, sorted.

        Raises:
            StoreError: no such page, one too large, or the server cannot be reached.
        """
        here = f"{url}/"
        try:
            page = self._page(here)
        except StoreError as error:
            raise StoreError(
                f"the server gives no list of its folders: {error.what}",
                where=here,
                remedy="name a store by its whole address",
            ) from None
        names = {unquote(link.removeprefix(here)) for link in _links(page, here)}
        folders = sorted(name for name in names if name not in {"", ".", ".."} and "/" not in name)
        if len(folders) > _MAX_FOLDERS:
            raise StoreError(f"links to more than {_MAX_FOLDERS:,} folders", where=here)
        return folders

    @contextmanager
    def _answer(self, method: str, url: str, headers: dict[str, str]) -> Iterator[Any]:
        with _store_errors(url):
            answer = self._follow(method, url, headers)
            try:
                yield answer
            finally:
                # What was read to its end is back in its pool; of the rest nothing more is read.
                answer.close()

    def _follow(self, method: str, url: str, headers: dict[str, str]) -> Any:
        """The answer to a request, redirects followed where they may lead."""
        here = url
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._manager(here).request(
                method,
                here,
                headers={"Accept-Encoding": "identity", "User-Agent": "spamo-cache", **headers},
                redirect=False,
                retries=self._retry,
                preload_content=False,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=SILENT_SECONDS),
            )
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.close()
            there = urljoin(here, target)
            check_redirect(here, there, url)
            here = there
        raise StoreError(f"the server redirects more than {_MAX_REDIRECTS} times", where=url)

    def _page(self, here: str) -> str:
        page = bytearray()
        for block in self.blocks(here):
            page += block
            if len(page) > _MAX_PAGE_BYTES:
                raise DamagedError(f"is larger than {_MAX_PAGE_BYTES:,} bytes", where=here)
        return page.decode("utf-8", "replace")

    def _manager(self, url: str) -> Any:
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
        if proxy not in self._managers:
            manager = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager(maxsize=16)
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
            self._managers[proxy] = manager
        return self._managers[proxy]


def check_redirect(here: str, there: str, asked: str) -> None:
    """Refuse a redirect that leads where no server has to send anybody.

    Args:
        here: the address that redirects.
        there: where to.
        asked: the address that was asked for first.

    Raises:
        StoreError: another kind of address, one without encryption in place of one with it, or one
            of a private network in place of a public one.
    """
    before, after = urlsplit(here), urlsplit(there)
    allowed = {"https"} if before.scheme == "https" else {"http", "https"}
    if after.scheme not in allowed or not after.hostname or "@" in after.netloc:
        raise StoreError(
            f"the server redirects to {there:.200}, which is not followed",
            where=asked,
            remedy="ask whoever runs it; name the root by its present https:// address",
        )
    if _public(before.hostname or "") and not _public(after.hostname):
        raise StoreError(
            f"the server redirects to {there:.200}, an address of the private network here",
            where=asked,
            remedy="do not trust this server",
        )


def _public(host: str) -> bool:
    """Whether a name stands for addresses of the public network alone, as far as can be told."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # Behind a proxy, names may have a meaning for the proxy alone.
        return True
    return all(ip_address(str(entry[4][0]).split("%")[0]).is_global for entry in addresses)


def _check(answer: Any, url: str, wanted: int) -> None:
    """Raise what the status of an answer means."""
    if answer.status in {404, 410}:
        raise DamagedError("a file of the store is missing", where=url)
    if answer.status in {401, 403}:
        raise StoreError("the server refuses", where=url, remedy="check the address")
    if answer.status != wanted:
        raise _unexpected(f"{answer.status} {answer.reason or ''}", url)


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    try:
        yield
    # ValueError: an address that none can be.
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _unexpected(str(_first(error)), url) from None


def _first(error: BaseException) -> BaseException:
    """What an error comes from: of urllib3's own words the last ones name objects."""
    context = None if error.__suppress_context__ else error.__context__
    cause = error.__cause__ or context
    return error if cause is None else _first(cause)


def _unexpected(reason: str, url: str) -> StoreError:
    return StoreError(
        f"the server does not answer as it should: {reason:.300}",
        where=url,
        remedy="check the address, the network, HTTPS_PROXY and HTTP_PROXY",
    )


def _links(page: str, here: str) -> Iterator[str]:
    """Links to folders below, without the slash at their end."""
    for match in _LINK.finditer(page):
        if match[1].endswith("/"):
            try:
                link = urljoin(here, match[1])
            except ValueError:
                continue
            if link.startswith(here):
                yield link.removesuffix("/")
