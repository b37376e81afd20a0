"""A feature cache for gloss-free sign-language translation (SpaMo, arXiv 2408.10593)."""

try:
    import fcntl as _fcntl  # noqa: F401 - where it is missing, much else of files is not the same
except ModuleNotFoundError:
    raise ImportError(
        "spamo-cache runs on Linux and macOS; on Windows, run it inside WSL "
        "(https://learn.microsoft.com/windows/wsl)"
    ) from None

__version__ = "0.1.0"
