"""Errors a user can act on: what is wrong, where it stands, what to do about it."""

from __future__ import annotations


class SpamoError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback.

    Args:
        what: what is wrong, one sentence.
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
        lines = [what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if remedy is not None:
            lines.append(f"  to do: {remedy}")
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


class CorpusError(SpamoError):
    """A raw corpus or manifest that cannot be read as what it claims to be."""


class VideoError(SpamoError):
    """One clip that cannot be decoded; recorded as failed, never fatal to its neighbours."""


class WeightsError(SpamoError):
    """Encoder or LLM weights that are missing, incomplete or not what they were."""


class StoreError(SpamoError):
    """A feature store that cannot be opened, written or trusted."""


class DamagedError(StoreError):
    """Bytes on disk that disagree with their checksum or receipt."""


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
