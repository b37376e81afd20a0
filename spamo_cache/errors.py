"""Errors a user can act on: what is wrong, where it stands, what to do about it."""

from __future__ import annotations

import errno
import re

_STEERING = re.compile(
    # Controls of both sets, marks of direction, other ends of lines, half characters.
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_INDENTED = "\n    "


def printable(text: str) -> str:
    """``text`` as one line that can be shown: what would steer a terminal is told as ``\\u001b``.

    Names, texts and messages of strangers can set a terminal's title, fill its clipboard, erase
    or forge lines and turn the direction of writing. What comes back is valid inside JSON, too.
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SpamoError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback.

    Args:
        what: what is wrong, one sentence; faults of a list follow on lines indented by four.
        where: the file, key, clip or store it concerns.
        remedy: what the user can do about it.
    """

    exit_code = 1
    heard = False
    """Another process of the same command has it too, and tells it."""

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        lines = [_INDENTED.join(map(printable, what.split(_INDENTED)))]
        if self.where is not None:
            lines.append(f"  where: {printable(self.where)}")
        if remedy is not None:
            lines.append(f"  to do: {printable(remedy)}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive default pickling, which Dask workers rely on.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(
    kind: type[SpamoError], what: str, where: str | None, remedy: str | None
) -> SpamoError:
    return kind(what, where=where, remedy=remedy)


class UsageError(SpamoError):
    """The command was asked for something it cannot mean: bad argument, unknown name (exit 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A cache spec, pipeline or ``--set`` value that cannot be used (exit 2)."""


class MissingLibraryError(UsageError):
    """What was asked for needs a library that is not installed (exit 2)."""


class CorpusError(SpamoError):
    """A raw corpus or manifest that cannot be read as what it claims to be."""


class VideoError(SpamoError):
    """One clip that cannot be decoded; recorded as failed, never fatal to its neighbours."""


class PoseError(SpamoError):
    """A pose that cannot be read, or is not of its clip; the clip is recorded as failed."""


class WeightsError(SpamoError):
    """Encoder or LLM weights that are missing, incomplete or not what they were."""


class StoreError(SpamoError):
    """A feature store that cannot be opened, written or trusted."""


class MissingStoreError(StoreError):
    """No root holds the store that something was made from."""


class DamagedError(StoreError):
    """Bytes on disk that disagree with their checksum or receipt."""


_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        "free some space on that disk or have the quota raised, then rerun the command",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "ask its owner for access, or choose another place"
    ),
    errno.EROFS: "get write access, or choose another place",
    # EEXIST: a folder is to be made where a file lies.
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST), "a part of this path is a file: choose another place"
    ),
    errno.EISDIR: "a folder has this name: choose another",
    errno.ENAMETOOLONG: "choose a shorter path",
}
_DISK_FAULT = "check the disk and how it is mounted, then rerun the command"


def remedy(error: OSError) -> str:
    """What can be done about a disk that refuses."""
    return _REMEDIES.get(error.errno or 0, _DISK_FAULT)


# Not the system's own words for it: FFmpeg uses them of damaged videos, too.
_SHORTAGES = {
    "out of memory": (
        *("can't allocate memory", "out of memory", "std::bad_alloc", "Insufficient memory"),
        *("failed to map segment", "error return without exception set"),
    ),
    "the system allows no more processes or threads": ("can't start new thread", "pthread_create"),
}


def shortage(error: BaseException) -> str | None:
    """What the system has no more of, if this is a library's way of saying so; None otherwise."""
    if isinstance(error, MemoryError):
        return "out of memory"
    # torch on a CPU, OpenCV, the loader of libraries and others tell it in words only.
    text = str(error) if isinstance(error, Exception) else ""
    found = (what for what, signs in _SHORTAGES.items() if any(sign in text for sign in signs))
    return next(found, None)


TRACEBACK_HINT = "SPAMO_TRACEBACK=1 shows where it happened"


def actionable(error: BaseException) -> SpamoError | None:
    """The error as one a user can act on; None of a bug, whose traceback is what helps."""
    if isinstance(error, SpamoError):
        return error
    lacking = isinstance(error, OSError | MemoryError | RuntimeError | ImportError | SystemError)
    if lacking and (what := shortage(error)):
        return SpamoError(what, remedy=f"raise this shell's limits (ulimit -a); {TRACEBACK_HINT}")
    if isinstance(error, OSError):
        known = _REMEDIES.get(error.errno or 0)  # of others, such as no such file, nobody knows
        return SpamoError(error.strerror or str(error), where=error.filename, remedy=known)
    if isinstance(error, RecursionError):
        return SpamoError("something is nested too deep", remedy=TRACEBACK_HINT)
    return None
