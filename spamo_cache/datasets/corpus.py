"""What is known about a corpus before a single file of it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from spamo_cache.config import TextConfig
from spamo_cache.datasets.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus: how it is read, the conventions papers use for it, what must be found in it."""

    name: str
    title: str
    """Name as papers print it."""
    language: str
    """Spoken language of the translations, as the prompt names it."""
    sign_language: str
    terms: str
    """Terms of use in brief, and where they stand in full."""
    fps: float | None
    """Frames per second, nominal where videos differ; None where there is no usual rate."""
    text: TextConfig
    """Text convention and tokenizer of the corpus's headline score."""
    read: Callable[[Path], Manifest]
    """Corpus root -> manifest; raises CorpusError."""
    labels: Callable[[Path], list[Path]] = field(default=lambda _: [])
    """Annotation files found below a root: their hashes tell label versions apart."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Published number of clips per split; empty where there is none."""
    frames: Mapping[str, int] = field(default_factory=dict)
    """Published number of frames per split; empty where there is none."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Clips per split that the release names but does not hold."""
    frame_size: tuple[int, int] | None = None
    """Width and height in pixels; None where videos differ."""
    caveats: tuple[str, ...] = ()
    """What someone who has worked with it would say first."""
    synthetic: bool = False
    """Drawn by a program: every page and table says so."""

    def manifest(self, root: Path) -> Manifest:
        """Read the corpus; its text convention is recorded with the raw text.

        Raises:
            CorpusError: no such layout below ``root``, or a broken label file.
        """
        return replace(self.read(root), text=self.text)
