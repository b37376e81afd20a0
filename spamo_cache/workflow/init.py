"""A pipeline for a corpus of one's own: a short YAML on a shipped base, to be edited."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import config, io
from spamo_cache.errors import UsageError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.config import Pipeline, TextConfig
    from spamo_cache.datasets.manifest import Manifest

EPOCHS = 40
"""Of translation, as in the paper."""
LEAST_STEPS = 2000
"""Of translation, however small the corpus."""
EVALUATIONS = 40
"""How often dev is scored in training."""
ALIGN_SHARE = 5
"""A step of VT-Align for so many of translation, about as in the paper."""

_BASES = {"english": "how2sign", **dict.fromkeys(("german", "french", "romanian"), "phoenix14t")}
"""Languages that the LLM of these pipelines, Flan-T5, knows."""
_MULTILINGUAL = "csl-daily"
"""Whose LLM, mT0, knows a hundred others."""
_CHINESE = {"chinese", "mandarin", "cantonese"}
_UNSPACED = {"japanese", "thai", "lao", "khmer", "burmese", "tibetan"}
"""Languages that do not put blanks between words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPipeline:
    """A pipeline that was written.

    Attributes:
        path: its file.
        base: the pipeline that it stands on.
        language: of most of the sentences.
        clips: split -> clips of the table.
        notes: what was odd about the table.
        commands: what to run next, in order.
    """

    path: Path
    base: str
    language: str
    clips: dict[str, int]
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def base_for(language: str) -> str:
    """The shipped pipeline whose LLM knows a language."""
    return _BASES.get(language.strip().lower(), _MULTILINGUAL)


def main_language(manifest: Manifest) -> str:
    """The language of most of the sentences."""
    return str(Counter(manifest.table["language"].to_pylist()).most_common(1)[0][0])


def init(
    corpus: str,
    *,
    manifest: Path | str | None = None,
    root: Path | str | None = None,
    base: str | None = None,
    spec: str | None = None,
    output: Path | str | None = None,
) -> NewPipeline:
    """Write a pipeline for a corpus.

    Args:
        corpus: its name, which ``extract --dataset`` has to be given, too.
        manifest: table of the clips; None for a corpus that is known by name.
        root: folder of the raw corpus; of a manifest's sources, by default the folder it lies in.
        base: pipeline to stand on, by name or path; None is one whose LLM knows the language.
        spec: cache spec, by name or path; None is the base's.
        output: file to write; None is ``CORPUS.yaml``.

    Raises:
        UsageError: the file is there already, the name cannot be one or is taken, no manifest.
        ConfigError: no such base or spec.
        CorpusError: the manifest cannot be read.
    """
    path = Path(output or f"{corpus}.yaml")
    if not re.fullmatch(config.NAME_PATTERN, corpus):
        raise UsageError(
            f"{corpus!r} cannot be the name of a corpus",
            remedy="use letters, digits, '.', '-' and '_', beginning with a letter or digit",
        )
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"cannot write {path.name!r}", remedy="end its name in .yaml")
    if os.path.lexists(path):
        raise UsageError(
            "is there already", where=path, remedy="edit it, or write another one by -o FILE"
        )
    if manifest is None:
        _check_known(corpus)
    table, folder = resolve.load_manifest(corpus, manifest, root)
    language = main_language(table)
    below = base or base_for(language)
    loaded, file = resolve.named_pipeline(below, [])
    beside = (file.parent / loaded.spec).is_file()
    computed = resolve.named_spec(spec or loaded.spec, file.parent if spec is None else None)[1]
    clips = dict(Counter(table.table["split"].to_pylist()))
    text = table.text or _text(language)
    shown = spec or (os.path.relpath(computed) if beside else loaded.spec)
    commands = _commands(corpus, path, manifest, folder, shown)
    content = _yaml(
        corpus,
        clips=clips,
        commands=commands,
        base=_from(path, below),
        spec=_from(path, spec) if spec else None if beside else loaded.spec,
        loaded=loaded,
        text=text,
        others=len(set(table.table["language"].to_pylist())) - 1,
    )
    try:
        io.write_atomic(path, content.encode())
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=path) from None
    return NewPipeline(
        path=path, base=below, language=language, clips=clips, notes=table.notes, commands=commands
    )


def _check_known(corpus: str) -> None:
    from spamo_cache.datasets import registry

    if corpus not in registry.CORPORA:
        raise UsageError(
            f"no table describes the clips of {corpus!r}", remedy="name it by --manifest FILE"
        )


def _text(language: str) -> TextConfig:
    """A text convention for a language: sentences as they are, BLEU cut as sacrebleu would."""
    known = language.strip().lower()
    if known in _CHINESE:
        return config.TextConfig(language=language, tokenize="zh")
    tokenize = "char" if known in _UNSPACED else "13a"
    return config.TextConfig.model_validate({"language": language, "tokenize": tokenize})


def _from(path: Path, base: str) -> str:
    """A base as the file at ``path`` names it."""
    given = Path(base)
    if given.suffix not in {".yaml", ".yml"} or given.is_absolute() or not given.exists():
        return base
    return os.path.relpath(given, path.parent)


def _commands(
    corpus: str, path: Path, manifest: Path | str | None, root: Path, spec: str
) -> tuple[str, ...]:
    clips = ["--dataset", corpus]
    if manifest is not None:
        clips += ["--manifest", str(manifest)]
    if manifest is None or root != Path(manifest).parent:
        clips += ["--root", str(root)]
    computed = [] if spec == resolve.spec_of(corpus) else ["--spec", spec]
    run = f"runs/{corpus}/default"
    listed = [
        ["doctor", *clips],
        ["extract", *clips, *computed],
        ["train", str(path)],
        ["evaluate", run],
        ["report", run],
    ]
    return tuple(shlex.join(["spamo-cache", *words]) for words in listed)


def _plain(value: object) -> str:
    """A value as YAML, in one line."""
    import yaml

    written: str = yaml.safe_dump(value, allow_unicode=True, width=sys.maxsize)
    return written.removesuffix("...\n").strip()


def _yaml(
    corpus: str,
    *,
    clips: dict[str, int],
    commands: tuple[str, ...],
    base: str,
    spec: str | None,
    loaded: Pipeline,
    text: TextConfig,
    others: int,
) -> str:
    question = f"How well does SpaMo translate {corpus}?"
    batch = loaded.translate.batch
    steps = max(LEAST_STEPS, ceil(EPOCHS * clips.get("train", 0) / batch))
    said = ", ".join(f"{split} {count:,}" for split, count in clips.items())
    mixed = f"; {others} more in the table" if others else ""
    lines = [
        f"# {question}",
        "#",
        *(f"#   {command}" for command in commands),
        "#",
        "# A draft by `spamo-cache init`, to be edited. What is not set here is as in the base;",
        f"# pipelines/README.md explains every key. Clips: {said}.",
        f"base: {_plain(base)}  # a pipeline that comes with spamo-cache, or a path from this file",
        f"name: default  # of the run: runs/{corpus}/default",
        f"question: {_plain(question)}",
        f"corpus: {corpus}  # as in `extract --dataset`",
        # Without one, the base's is read from where the base lies.
        *(
            [f"spec: {_plain(spec)}  # how features are computed; as in `extract --spec`"]
            * bool(spec)
        ),
        "",
        "text:",
        f"  language: {_plain(text.language)}  # as the prompt names it{mixed}",
        f"  lower: {_plain(text.lower)}  # true: sentences in lower case",
        f"  final_dot: {_plain(text.final_dot)}  # true: a final dot is added where there is none",
        f"  tokenize: {text.tokenize}  # of BLEU; zh: Chinese, char: other scripts without blanks",
        "",
        f"# The LLM is the base's, {loaded.llm.weights}. Another one:",
        "# llm: {weights: org/name, dtype: bfloat16}",
        "",
        "align:  # VT-Align alone, before translation",
        f"  steps: {max(1, steps // ALIGN_SHARE)}",
        "translate:",
        f"  steps: {steps}  # {_epochs(steps, batch, clips.get('train', 0))}",
        f"  eval_every: {ceil(steps / EVALUATIONS)}  # steps between two scorings of dev",
    ]
    return "\n".join(lines) + "\n"


def _epochs(steps: int, batch: int, clips: int) -> str:
    if not clips:
        return f"batches of {batch}; the table has no split called train"
    return f"{steps * min(batch, clips) / clips:,.0f} epochs, in batches of {min(batch, clips)}"
