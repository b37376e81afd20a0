"""What the commands do, as functions: from names and paths to stores, runs, scores and pages.

The functions for everybody are exported by :mod:`spamo_cache` itself.
"""

EMBEDDED = "signed-weather"
"""The corpus that needs nothing: it is drawn on demand."""
DRAWN = (EMBEDDED, "signed-weather-coast")
"""The corpora that are drawn on demand; the second one is there to pretrain on."""
