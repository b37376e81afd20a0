"""Files of remote roots: S3 and what speaks its language, the Hugging Face Hub, and HTTP for
reading only.

A :class:`RemotePath` is a value like a path: it holds an address and no connection, so it can be
pickled and shared. Clients are made on first use, one per server and process.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from spamo_cache import config, extras, io
from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.addresses import HUB_ADDRESS

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from spamo_cache.store.hub import Hub
    from spamo_cache.store.web import Web

_RETRIES = 3
_NEAR_BYTES = 1 << 16
"""Bytes between two parts that are sooner read than asked for apart."""
_REQUESTS = 8
"""Parts of one file that are asked for beside each other."""
_IN_PATHS = "/~!$&'()*+,;=:@"
"""What a path of an address may hold as it is, besides letters, digits and ``-._``."""
_LISTED = 1000
_MAX_LISTS = 1000
"""Requests for lists, of up to a thousand names each, that one question may cost."""

Result = TypeVar("Result")


class RemotePath:
    """The address of a file or folder in a remote root; see :func:`location`.

    Attributes:
        url: ``s3://bucket/key``, ``hf://datasets/org/name/path`` or ``https://host/path``, without
            a slash at its end.
    """

    __slots__ = ("url",)

    # No dataclass: those that hold one are turned into JSON, where it is to be one text.
    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0])

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def writable(self) -> bool:
        """Whether files can be put there at all; HTTP is for reading."""
        return self._on_s3 or self.on_hub

    @property
    def on_hub(self) -> bool:
        """Whether this is a dataset of the Hugging Face Hub, or a file of one."""
        return self.url.startswith("hf:")

    @property
    def _on_s3(self) -> bool:
        return self.url.startswith("s3:")

    def pinned(self) -> RemotePath:
        """The same place as it is now and will stay, where the server keeps what it was.

        On the Hub that is the place in the commit that its revision stands for now.

        Raises:
            StoreError: the Hub cannot be asked, or knows no such dataset or revision.
        """
        return RemotePath(hub().pinned(self.url)) if self.on_hub else self

    @property
    def key(self) -> str:
        """The name of the file for its server."""
        key = (self.url.split("/", 3)[3:] or [""])[0]
        return key if self._on_s3 else unquote(key)

    # --- reading --------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is such a file; a folder is not one."""
        return self._size() is not None

    def is_symlink(self) -> bool:
        """Never: asked of local paths, too."""
        return False

    def size(self) -> int:
        """Bytes of the file.

        Raises:
            DamagedError: there is none.
        """
        size = self._size()
        if size is None:
            raise _missing(self)
        return size

    def sha256(self) -> str | None:
        """The checksum that the server lists of the file; None where it lists none."""
        entry = hub().entry(self.url) if self.on_hub else None
        return entry.digest if entry is not None and len(entry.digest) == 64 else None

    def read(self, limit: int) -> bytes:
        """The whole file of at most ``limit`` bytes, by one request.

        Raises:
            DamagedError: it is missing or larger.
            StoreError: the server cannot be reached or refuses.
        """
        data = bytearray()
        for block in self.blocks(limit):
            data += block
            if len(data) > limit:
                raise DamagedError(f"is larger than the {limit} bytes it may have", where=self)
        return bytes(data)

    def ranges(self, starts: Sequence[int], ends: Sequence[int]) -> list[Buffer]:
        """Parts of the file from each start to its end; neighbours come by one request.

        Raises:
            DamagedError: the file is missing or ends before.
            StoreError: the server cannot be reached, refuses, or has no ranges.
        """
        spans = _joined(starts, ends)
        with ThreadPoolExecutor(_REQUESTS) as pool:
            loaded = dict(zip(spans, pool.map(lambda span: self._span(*span), spans), strict=True))
        parts: list[Buffer] = []
        for start, end in zip(starts, ends, strict=True):
            first, data = next((f, d) for (f, s), d in loaded.items() if f <= start and end <= s)
            parts.append(data[start - first : end - first])
        return parts

    def _span(self, start: int, end: int) -> memoryview:
        """Exactly the bytes from ``start`` to ``end``; more are not taken from the server."""
        data = bytearray()
        for block in self._stream(start, end):
            data += block
            if len(data) > end - start:
                raise DamagedError("the server sends more than it was asked for", where=self)
        if len(data) < end - start:
            raise DamagedError(f"ends before byte {end}", where=self)
        return memoryview(data)

    def blocks(self, limit: int) -> Iterator[Buffer]:
        """The whole file as a stream, by one request; the caller ends it where it goes on longer.

        Args:
            limit: bytes that the file may have; a server that lists a larger one is not asked.

        Raises:
            DamagedError: it is missing, or known to be larger.
            StoreError: the server cannot be reached, refuses or is too slow, also halfway.
        """
        return hub().blocks(self.url, limit) if self.on_hub else self._stream()

    def _stream(self, start: int | None = None, end: int | None = None) -> Iterator[Buffer]:
        if self.on_hub and start is not None and end is not None:
            yield from hub().span(self.url, start, end)
            return
        if not self._on_s3:
            yield from web_server().blocks(self._address, start, end)
            return
        options = {} if start is None else {"range": (start, end)}
        with _store_errors(self):
            got = _obstore().get(_connected(self.url), self.key, options=options)
            # Each block as it comes: a server may take for ever over a larger one.
            stream: Iterator[Buffer] = iter(got.stream(min_chunk_size=1))
        pace = _web().Pace()
        while True:
            with _store_errors(self), pace.waiting() as received:
                pace.left()
                block = next(stream, None)
                received(0 if block is None else memoryview(block).nbytes)
            if block is None:
                return
            yield block

    @property
    def _address(self) -> str:
        """The whole address as a web server wants it."""
        server = "/".join(self.url.split("/")[:3])
        return f"{server}/{quote(self.key, safe=_IN_PATHS)}"

    def folders(self) -> list[str]:
        """Names of the folders right below, sorted.

        Raises:
            StoreError: the server cannot be reached, gives no list, or one without end.
        """
        if self.on_hub:
            return hub().folders(self.url)
        if not self._on_s3:
            return web_server().folders(self.url)
        folders: list[str] = []
        offset: str | None = None
        prefix = f"{self.key}/" if self.key else ""
        for _ in range(_MAX_LISTS):
            names = self._page(offset)
            if not names:
                return sorted(folders)
            folders += [n.split("/")[0] for n in names if "/" in n]
            last, slash, _ = names[-1].partition("/")
            # What comes next outside this folder: "0" is the character after "/".
            offset = prefix + (f"{last}0" if slash else last)
            folders = list(dict.fromkeys(folders))
        raise StoreError(
            f"holds more than {_MAX_LISTS * _LISTED} unrelated files",
            where=self,
            remedy="give the stores a prefix of their own",
        )

    def files(self) -> dict[str, int]:
        """Names, relative to this folder, and sizes of all the files below it.

        Raises:
            StoreError: the server cannot be reached, or gives no list.
        """
        if self.on_hub:
            return {name: entry.size for name, entry in hub().files(self.url).items()}
        start = len(self.key) + 1 if self.key else 0

        def load(client: Any, key: str) -> dict[str, int]:
            pages = islice(_obstore().list(client, prefix=key, chunk_size=_LISTED), _MAX_LISTS)
            return {item["path"][start:]: item["size"] for page in pages for item in page}

        return self._ask(load)

    def _page(self, offset: str | None) -> list[str]:
        start = len(self.key) + 1 if self.key else 0

        def load(client: Any, key: str) -> list[str]:
            pages = _obstore().list(client, prefix=key or None, offset=offset, chunk_size=_LISTED)
            return [item["path"][start:] for item in next(iter(pages), [])]

        return self._ask(load)

    # --- writing --------------------------------------------------------------------------------

    def tag(self) -> str | None:
        """What names these contents of the file; None where there is no file."""
        head = self._head()
        return None if head is None else str(head["e_tag"])

    def create(self, data: bytes | bytearray) -> bool:
        """Make the file, whole or not at all; False where there is one."""

        def store(client: Any, key: str) -> bool:
            try:
                _obstore().put(client, key, data, mode="create", use_multipart=False)
            except _obstore().exceptions.AlreadyExistsError:
                return False
            except NotImplementedError:
                # Told to do without conditions (AWS_CONDITIONAL_PUT=disabled).
                return not self.exists() and self._put(data)
            return True

        return self._ask(store)

    def swap(self, tag: str, data: bytes | bytearray) -> bool:
        """Replace the contents that ``tag`` names; False where the file holds others by now."""

        def store(client: Any, key: str) -> bool:
            try:
                _obstore().put(client, key, data, mode={"e_tag": tag}, use_multipart=False)
            except _obstore().exceptions.PreconditionError:
                return False
            except NotImplementedError:
                return self._put(data)
            return True

        return self._ask(store)

    def delete(self) -> None:
        """Remove the file; somebody else may have been first."""
        self._ask(lambda client, key: _obstore().delete(client, key))

    def _put(self, data: bytes | bytearray) -> bool:
        self._ask(lambda client, key: _obstore().put(client, key, data, use_multipart=False))
        return True

    def _size(self) -> int | None:
        if self.on_hub:
            return hub().size(self.url)
        if not self._on_s3:
            return web_server().size(self._address)
        head = self._head()
        return None if head is None else int(head["size"])

    def _head(self) -> Any:
        def look(client: Any, key: str) -> Any:
            try:
                return _obstore().head(client, key)
            except FileNotFoundError:
                return None

        return self._ask(look)

    def _ask(self, question: Callable[[Any, str], Result]) -> Result:
        with _store_errors(self):
            return question(_connected(self.url), self.key)


def _joined(starts: Sequence[int], ends: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges that hold all of these, near ones joined."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(zip(starts, ends, strict=True)):
        if spans and start - spans[-1][1] <= _NEAR_BYTES:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


Location = Path | RemotePath
"""Where a root, a store or a file of one lies."""


def read_file(path: Location, limit: int) -> bytes:
    """All bytes of a store's file of at most ``limit`` bytes.

    Raises:
        DamagedError: it is missing or larger.
        StoreError: not a regular file, or it cannot be read.
    """
    return path.read(limit) if isinstance(path, RemotePath) else io.read_regular(path, limit)


def file_blocks(path: Location, limit: int) -> Iterator[Buffer]:
    """A store's file, see :meth:`RemotePath.blocks`; raises as :func:`read_file`."""
    return path.blocks(limit) if isinstance(path, RemotePath) else io.regular_blocks(path)


def verified_blocks(shard: Location, size: int, digest: str) -> Iterator[Buffer]:
    """The blocks of a shard; the last one is followed by an error if they are not what they were.

    Args:
        size: in bytes, as the receipt has it.
        digest: SHA-256, likewise.

    Raises:
        DamagedError: too few, too many or other bytes.
    """
    what, remaining, hashed = "the shard disagrees with its receipt", size, hashlib.sha256()
    for block in file_blocks(shard, size):
        remaining -= memoryview(block).nbytes
        if remaining < 0:
            what = f"sends more than the {size} bytes it should have: {what}"
            break
        hashed.update(block)
        yield block
    if remaining or hashed.hexdigest() != digest:
        raise DamagedError(
            what,
            where=shard,
            remedy="run `spamo-cache store verify --deep --repair` on the store it comes from",
        )


def location(text: str | Location) -> Location:
    """A place as the user wrote it: a local path, ``s3://``, ``hf://``, ``https://`` or ``http://``.

    Raises:
        UsageError: another kind of address, or one with more in it than a place.
    """
    if isinstance(text, RemotePath) or "://" not in str(text):
        return text if isinstance(text, RemotePath) else config.expanded(text)
    refusal = UsageError(
        "no root can lie there",
        where=text,
        remedy="s3://, https://, hf://datasets/ORG/NAME or a folder",
    )
    if str(text).startswith("hf://"):
        if HUB_ADDRESS.fullmatch(str(text).rstrip("/")) is None:
            raise refusal
        return RemotePath(str(text).rstrip("/"))
    try:
        parts = urlsplit(str(text))
        known = parts.scheme in {"s3", "http", "https"} and bool(parts.hostname)
        # A port that is none raises as well.
        known = known and parts.port != 0
    except ValueError:
        raise refusal from None
    if not known:
        raise refusal
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(
            "an address of a root holds no password, query or fragment",
            where=parts.hostname,
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        )
    return RemotePath(str(text).rstrip("/"))


# --- clients and their errors ---------------------------------------------------------------------


_clients: dict[tuple[int, str, str | None], Any] = {}
_webs: dict[int, Web] = {}
"""By process: a child that was forked must not talk on its parent's connections."""


def _obstore() -> Any:
    return extras.load("obstore", "a root on S3")


def hub() -> Hub:
    """What speaks with the Hugging Face Hub; its library is imported no sooner than that."""
    from spamo_cache.store import hub as module  # noqa: PLC0415 (takes a second)

    return module.HUB


def web_server() -> Web:
    """What reads from web servers; made once in each process; raises as :func:`_web`."""
    if os.getpid() not in _webs:
        _webs[os.getpid()] = _web().Web(_RETRIES)
    return _webs[os.getpid()]


def _web() -> ModuleType:
    """The module that reads from web servers.

    Raises:
        MissingLibraryError: urllib3, an extra, is not installed.
    """
    extras.need("urllib3", use="reading from a web server")
    from spamo_cache.store import web  # noqa: PLC0415 (needed for remote roots only)

    return web


def _connected(url: str) -> Any:
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
    stores = _obstore().store
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
def _store_errors(path: object) -> Iterator[None]:
    """Turn what obstore raises, and an answer that is too slow, into this package's errors."""
    errors = _obstore().exceptions
    try:
        yield
    except FileNotFoundError:
        raise _missing(path) from None
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


def _missing(path: object) -> DamagedError:
    """The error of a file that is not there."""
    return DamagedError("a file of the store is missing", where=path)


def _short(error: Exception) -> str:
    first = str(error).split("Debug source", 1)[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", first)).strip()[:300]
