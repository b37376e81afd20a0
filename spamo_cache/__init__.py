"""A feature cache for gloss-free sign-language translation (SpaMo, arXiv 2408.10593)."""

__version__ = "0.1.0"
