"""One self-contained page about one run or several, to be read, printed and shown."""

from spamo_cache.report.page import write_report

__all__ = ["write_report"]
