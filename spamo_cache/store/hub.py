"""Datasets of the Hugging Face Hub: the files of a commit are read, new ones are committed.

huggingface_hub does the talking, so that login, cache, transfer by Xet, proxies and the offline
switch are those of the user's other tools. A commit never changes: what is listed of one is kept.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import hf_hub_download, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status, http_stream_backoff
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars, tqdm

from spamo_cache import io
from spamo_cache.errors import DamagedError, SpamoError, StoreError, UsageError
from spamo_cache.store.addresses import HUB_ADDRESS, Place

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LOG = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY = "spamo-cache"
_DATASET = "dataset"
_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before a request is tried again; as long as the Hub asks for where it does."""
_LONGEST_PAUSE = 600.0
_PASSING = {408, 429, 500, 502, 503, 504}
_MOVED = {409, 412}
_MAX_FILES = 1_000_000
_LISTS = 64
_SILENT_SECONDS = 60.0
_BLOCK_BYTES = 1 << 20
# Of httpx or httpx2, as the library has it.
_TRANSPORT = cast("type[Exception]", HfHubHTTPError.__bases__[0])

Result = TypeVar("Result")
Operation = CommitOperationAdd | CommitOperationDelete


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a commit lists it.

    Attributes:
        size: in bytes.
        digest: SHA-256 of what is kept as a large file, git's name of the contents of the rest.
    """

    size: int
    digest: str

    def holds(self, data: bytes) -> bool:
        """Whether these are its contents."""
        if len(self.digest) == 64:
            return self.digest == hashlib.sha256(data).hexdigest()
        blob = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
        blob.update(data)
        return self.digest == blob.hexdigest()


class Hub:
    """Reads and writes datasets; safe between threads, and in forked processes."""

    def __init__(self) -> None:
        self._lists: dict[tuple[str, str | None, str, bool], dict[str, Entry | None]] = {}
        self._lock, self._inside = Lock(), 0

    # --- reading --------------------------------------------------------------------------------

    def pinned(self, url: str) -> str:
        """The address with the commit that its revision, by default ``main``, stands for now.

        Raises:
            StoreError: the Hub cannot be asked, or there is no such dataset or revision.
        """
        place = Place.of(url)
        if _COMMIT.fullmatch(place.revision or ""):
            return url
        info = _ask(
            url,
            lambda: _api().dataset_info(
                place.repo, revision=place.revision, expand=["sha"], timeout=_SILENT_SECONDS
            ),
        )
        if not _COMMIT.fullmatch(str(info.sha)):
            raise StoreError("the Hub names no commit", where=url)
        return str(place._replace(revision=str(info.sha)))

    def size(self, url: str) -> int | None:
        """Bytes of a file; None if there is none."""
        entry = self.entry(url)
        return None if entry is None else entry.size

    def entry(self, url: str) -> Entry | None:
        """A file as its commit lists it; None if there is none."""
        place = self._at(url)
        folder, name = _in_store(place.path) or (_parent(place.path), _name(place.path))
        return self._list(place, folder, recursive=".zarr" in folder).get(name)

    def files(self, url: str) -> dict[str, Entry]:
        """All the files below a folder, by their names relative to it."""
        place = self._at(url)
        folder, inside = _in_store(place.path) or (place.path, "")
        start = f"{inside}/" if inside else ""
        return {
            name.removeprefix(start): entry
            for name, entry in self._list(place, folder, recursive=True).items()
            if name.startswith(start) and entry is not None
        }

    def folders(self, url: str) -> list[str]:
        """Names of the folders right below a folder, sorted; none below what is no dataset."""
        if HUB_ADDRESS.fullmatch(url) is None:
            return []
        place = self._at(url)
        listed = self._list(place, place.path, recursive=False)
        return sorted(name for name, entry in listed.items() if entry is None)

    def blocks(self, url: str, limit: int) -> Iterator[Buffer]:
        """A file of at most ``limit`` bytes, block by block; documents come from the cache.

        Raises:
            DamagedError: it is missing or larger.
            StoreError: the Hub cannot be asked, or refuses.
        """
        place = self._at(url)
        size = self.size(str(place))
        if size is None:
            raise _missing(url)
        if size > limit:
            raise DamagedError(f"is larger than the {limit} bytes it may have", where=url)
        if not _name(place.path).startswith("c.") or not _parent(place.path).endswith("/features"):
            yield from io.regular_blocks(self._fetched(place, None))
            return
        # A shard is about to lie elsewhere: twice on the disk would be once too often.
        with TemporaryDirectory() as aside:
            yield from io.regular_blocks(self._fetched(place, aside))

    def span(self, url: str, start: int, end: int) -> Iterator[Buffer]:
        """The bytes of a file from ``start`` up to ``end`` as they come.

        Raises:
            DamagedError: there is no such file, or it ends before.
            StoreError: the Hub cannot be asked, refuses, or has no ranges.
        """
        place = self._at(url)
        address = hf_hub_url(
            place.repo,
            place.path,
            repo_type=_DATASET,
            revision=place.revision,
            endpoint=_api().endpoint,
        )
        headers = build_hf_headers(library_name=_LIBRARY)
        headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with (
            _errors(url),
            http_stream_backoff("GET", address, headers=headers, timeout=_SILENT_SECONDS) as answer,
        ):
            if answer.status_code == 416:
                raise DamagedError(f"ends before byte {end}", where=url)
            hf_raise_for_status(answer)
            place_of_it = answer.headers.get("Content-Range", "")
            if answer.status_code != 206 or not place_of_it.startswith(f"bytes {start}-"):
                raise StoreError(
                    "the Hub gives no ranges of files", where=url, remedy="pull the store"
                )
            yield from answer.iter_raw(_BLOCK_BYTES)

    def _at(self, url: str) -> Place:
        return Place.of(self.pinned(url))

    def _fetched(self, place: Place, folder: str | None) -> Path:
        """A file on this disk: in a folder, or in the cache of the library."""
        return _ask(
            str(place),
            lambda: Path(
                hf_hub_download(
                    place.repo,
                    place.path,
                    repo_type=_DATASET,
                    revision=place.revision,
                    local_dir=folder,
                    endpoint=_api().endpoint,
                    library_name=_LIBRARY,
                    tqdm_class=_NoBar,
                )
            ).resolve(),
        )

    def _list(self, place: Place, folder: str, *, recursive: bool) -> dict[str, Entry | None]:
        """What is below a folder: a file's entry, None of a folder, by name relative to it."""
        key = (place.repo, place.revision, folder, recursive)
        if key not in self._lists:
            where = str(place._replace(path=folder))
            self._lists[key] = _ask(where, lambda: _listed(place, folder, recursive))
            for oldest in list(self._lists)[:-_LISTS]:
                self._lists.pop(oldest, None)
        return self._lists[key]

    # --- writing --------------------------------------------------------------------------------

    def check_branch(self, place: Place) -> None:
        """Raise UsageError if an address names a commit, to which nothing can be added."""
        if _COMMIT.fullmatch(place.revision or ""):
            raise UsageError(
                "nothing can be pushed to a commit",
                where=place,
                remedy="leave @... out, or name a branch",
            )

    def create(self, url: str, *, private: bool) -> None:
        """Make a dataset, unless there is one; a public one where the organisation has no rule."""
        repo, shown = Place.of(url).repo, True if private else None
        _ask(
            url,
            lambda: _api().create_repo(repo, private=shown, repo_type=_DATASET, exist_ok=True),
        )

    def addition(self, path: str, data: bytes) -> CommitOperationAdd:
        """A file of a commit to come."""
        return CommitOperationAdd(path, data)

    def deletion(self, path: str) -> CommitOperationDelete:
        """A file that a commit to come removes."""
        return CommitOperationDelete(path, is_folder=False)

    def upload(self, branch: Place, path: str, data: bytes) -> CommitOperationAdd:
        """Send the contents of a file for a commit to come; what the Hub has is not sent again.

        Args:
            branch: any place in the dataset, with the branch that will be committed to.
            path: of the file in the dataset.
        """
        added = CommitOperationAdd(path, data)
        with self._without_bars():
            _ask(
                str(branch),
                lambda: _api().preupload_lfs_files(
                    branch.repo, [added], repo_type=_DATASET, revision=branch.revision or "main"
                ),
            )
        return added

    def commit(
        self, branch: Place, parent: str, operations: Sequence[Operation], message: str
    ) -> str | None:
        """Commit to a branch; None where somebody else has done so since ``parent``.

        Args:
            branch: any place in the dataset, with the branch.
            parent: the commit that is to be the last one.
        """

        def send() -> str | None:
            try:
                made = _api().create_commit(
                    branch.repo,
                    operations,
                    commit_message=message,
                    repo_type=_DATASET,
                    revision=branch.revision or "main",
                    parent_commit=parent,
                )
            except HfHubHTTPError as error:
                if error.response.status_code in _MOVED:
                    return None
                raise
            return made.oid

        with self._without_bars():
            return _ask(str(branch), send)

    @contextmanager
    def _without_bars(self) -> Iterator[None]:
        """Progress is told by partitions, not by a bar for each of them, unless a variable says."""
        chosen = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
        with self._lock:
            self._inside += 1
            if self._inside == 1 and not chosen:
                disable_progress_bars()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0 and not chosen:
                    enable_progress_bars()

    def lost(self, url: str, operations: Iterable[Operation]) -> str | None:
        """The first file of a commit that the commit does not have; ``url`` is any place in it."""
        commit = Place.of(url)
        added = (one for one in operations if isinstance(one, CommitOperationAdd))
        files = (str(commit._replace(path=one.path_in_repo)) for one in added)
        return next((file for file in files if self.entry(file) is None), None)


HUB = Hub()


class _NoBar(tqdm):
    """Progress is told by partitions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))  # type: ignore[no-untyped-call]


def _api() -> HfApi:
    return HfApi(library_name=_LIBRARY)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _in_store(path: str) -> tuple[str, str] | None:
    """A store's folder, which is listed as a whole, and a path within it."""
    before, ending, inside = f"{path}/".partition(".zarr/")
    return (f"{before}.zarr", inside.rstrip("/")) if ending else None


def _listed(place: Place, folder: str, recursive: bool) -> dict[str, Entry | None]:
    found: dict[str, Entry | None] = {}
    start = f"{folder}/" if folder else ""
    items = _api().list_repo_tree(
        place.repo,
        folder or None,
        recursive=recursive,
        revision=place.revision,
        repo_type=_DATASET,
    )
    try:
        for item in islice(items, _MAX_FILES + 1):
            name = item.path.removeprefix(start)
            if not item.path.startswith(start) or {"", ".", ".."} & set(name.split("/")):
                continue
            found[name] = _entry(item) if isinstance(item, RepoFile) else None
    except EntryNotFoundError:
        return {}
    if len(found) > _MAX_FILES:
        raise StoreError(
            f"holds more than {_MAX_FILES:,} files",
            where=place._replace(path=folder),
            remedy="give the stores a dataset of their own",
        )
    return found


def _entry(item: RepoFile) -> Entry:
    digest = item.blob_id if item.lfs is None else item.lfs.sha256
    if not isinstance(item.size, int) or item.size < 0 or not isinstance(digest, str):
        raise ValueError("a file without size or digest")
    return Entry(item.size, digest)


# --- patience and errors --------------------------------------------------------------------------


def _ask(url: str, question: Callable[[], Result]) -> Result:
    """The answer of the Hub, asked again where it may pass, after as long as it asks to wait."""
    with _errors(url):
        for pause in _PAUSES:
            try:
                return question()
            except (HfHubHTTPError, _TRANSPORT, LocalEntryNotFoundError) as error:
                wait = _wait(error, pause)
                if wait is None:
                    raise
                if wait > pause:
                    _LOG.warning("%s: the Hub asks to wait %.0f seconds", url, wait)
                time.sleep(wait)
        return question()


def _wait(error: BaseException, pause: float) -> float | None:
    """Seconds after which a request may succeed; None of those that will not."""
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__
        return None if cause is None else _wait(cause, pause)
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in _PASSING:
            return None
        asked = _retry_after(error)
        return pause if asked is None else asked if asked <= _LONGEST_PAUSE else None
    return pause if isinstance(error, _TRANSPORT) else None


def _retry_after(error: HfHubHTTPError) -> float | None:
    header = str(error.response.headers.get("Retry-After", "")).strip()
    is_number = header.isascii() and header.isdecimal() and len(header) < 10
    return float(header) if is_number else None


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into this package's errors."""
    try:
        yield
    except SpamoError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _explained(error, url) from None
    except _TRANSPORT as error:
        raise _explained(error, url) from None


def _explained(error: BaseException, url: str) -> SpamoError:
    if error.__cause__ is not None and isinstance(error, LocalEntryNotFoundError | RuntimeError):
        return _explained(error.__cause__, url)
    for kind, what, remedy in _MEANINGS:
        if isinstance(error, kind):
            return StoreError(what, where=url, remedy=remedy)
    if isinstance(error, RepositoryNotFoundError):
        return _unknown(url)
    if isinstance(error, HfHubHTTPError):
        return _refused(error, url)
    if isinstance(error, OSError) and error.errno is not None:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        what = "no space is left on this disk" if full else str(error.strerror)
        return StoreError(what, where=error.filename or url, remedy=_ROOM if full else None)
    return StoreError(
        f"the Hub does not answer as it should: {_short(error)}",
        where=url,
        remedy="check the address, the network, HF_ENDPOINT and HTTPS_PROXY",
    )


_LOGIN = "log in by `hf auth login`, or set HF_TOKEN"
_ROOM = "free some; HF_HOME holds the Hub's cache, TMPDIR the shards that are on their way"
_MEANINGS = (
    (
        OfflineModeIsEnabled,
        "HF_HUB_OFFLINE is set, so the Hub is not asked",
        "unset it, or pull the store where there is a network",
    ),
    (LocalTokenNotFoundError, "this needs a login at the Hub", _LOGIN),
    (
        GatedRepoError,
        "the dataset is gated, and you are not among those who may read it",
        f"ask for access on its page at the Hub; then {_LOGIN}",
    ),
    (RevisionNotFoundError, "the dataset has no such revision", "look at its page at the Hub"),
    (HFValidationError, "the Hub has no datasets of such a name", "check the address"),
)


def _refused(error: HfHubHTTPError, url: str) -> SpamoError:
    """What the status of an answer means."""
    status, said = error.response.status_code, _short(error.server_message or "")
    if status == 404 or isinstance(error, EntryNotFoundError):
        return _missing(url)
    if status == 401:
        return StoreError("the Hub does not know this login", where=url, remedy=_LOGIN)
    if status == 429:
        wait = _retry_after(error)
        return StoreError(
            "the Hub allows no more requests for now",
            where=url,
            remedy="run the same command again "
            + ("later" if wait is None else f"in {wait:.0f} seconds"),
        )
    if status in {402, 413, 507} or (status == 403 and "storage" in said.lower()):
        return StoreError(f"the Hub has no room for it: {said or status}", where=url)
    if status == 403:
        return StoreError(
            f"the Hub refuses: {said or 'forbidden'}",
            where=url,
            remedy="ask for the right to write there, or take a token that has it",
        )
    return StoreError(
        f"the Hub answers with {status}: {said or _short(error)}",
        where=url,
        remedy="run the same command again later",
    )


def _unknown(url: str) -> SpamoError:
    """Why a dataset is not found; the Hub tells strangers no more of what is private."""
    repo = Place.of(url).repo
    for kind in ("model", "space"):
        try:
            is_one = _api().repo_exists(repo, repo_type=kind)
        except (OSError, _TRANSPORT):
            is_one = False
        if is_one:
            return StoreError(
                f"is a {kind}, and only datasets hold stores",
                where=url,
                remedy="name a dataset: hf://datasets/ORG/NAME",
            )
    if get_token() is None:
        return StoreError(
            "the Hub has no such dataset, or it is private and you are not logged in",
            where=url,
            remedy=f"check the name; {_LOGIN}; `store push --create` makes one",
        )
    return StoreError(
        "the Hub has no such dataset, or none that you may see",
        where=url,
        remedy="check the name and the login; `store push --create` makes one",
    )


def _missing(url: str) -> DamagedError:
    return DamagedError("a file of the store is missing", where=url)


def _short(error: object) -> str:
    # A signed address opens a private file, and a proxy's may hold a password.
    plain = re.sub(r"(?<=://)[^\s/'\"]*@|\?[^\s'\"]*=[^\s'\"]*", "", str(error))
    return re.sub(r"\s+", " ", plain).strip()[:300]
