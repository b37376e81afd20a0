"""``spamo-cache doctor``: what would go wrong, before it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache import config
from spamo_cache.cli import display, options
from spamo_cache.errors import CorpusError, UsageError, WeightsError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.datasets.doctor import Diagnosis, Finding
    from spamo_cache.datasets.manifest import Manifest


def doctor(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=0, help="Clips to decode [default: 64]"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Decode every clip; takes as long as extracting them.")
    ] = False,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="PIPELINE",
            help="Whose LLM the sentences are for [default: the corpus's own, or signed-weather]",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check this machine; with a corpus, check the corpus as a careful colleague would.

    Where the LLM of the pipeline is on this machine, its tokenizer is tried on the sentences.

    Exit code 1 only for what would make results wrong.

    Example:

        spamo-cache doctor --dataset phoenix14t --root /data/PHOENIX-2014-T
    """
    if dataset is None and root is None and manifest is None and pipeline is None:
        from spamo_cache.datasets.doctor import environment

        found = environment.examine()
    else:
        number = _number(sample, everything=everything)
        found = _corpus(dataset, root, manifest, number, pipeline)
    if json:
        display.as_json(found.as_dict())
    else:
        _print(found.as_dict())
    if found.failed:
        raise typer.Exit(1)


def _number(sample: int | None, *, everything: bool) -> int | None:
    from spamo_cache.datasets.doctor import SAMPLE

    if not everything:
        return SAMPLE if sample is None else sample
    if sample is not None:
        raise UsageError("--all and --sample exclude each other", remedy="leave one of them out")
    return None


def _corpus(
    dataset: str | None,
    root: Path | None,
    manifest: Path | None,
    sample: int | None,
    pipeline: str | None,
) -> Diagnosis:
    from spamo_cache.datasets import registry
    from spamo_cache.datasets.doctor import lint
    from spamo_cache.datasets.doctor.findings import diagnosis
    from spamo_cache.datasets.manifest import Manifest

    if manifest is not None:
        known, where = None, resolve.folder(root or manifest.parent)
        load = partial(Manifest.read, manifest, corpus=dataset)
        if not manifest.exists():
            load()  # a slip of the user's is an error, not a finding
    else:
        name = dataset or resolve.EMBEDDED
        known, where = (
            registry.corpus(name),
            resolve.corpus_root(name, root, watcher=display.TERMINAL),
        )
        load = partial(known.manifest, where)
    once = cache(load)
    with display.progress("decoding a sample", "clips") as advance:
        found = lint(where, once, corpus=known, sample=sample, progress=advance)
    with suppress(CorpusError):  # a finding by now
        table = once()
        lost = _lost(table, pipeline or _usual(table.corpus))
        return diagnosis([*found.findings, *lost], found.facts)
    return found


def _usual(corpus: str) -> str | None:
    """The pipeline that comes with a corpus; of a corpus of one's own what ``train`` would take."""
    from spamo_cache.datasets import registry

    if corpus not in registry.CORPORA:
        return resolve.EMBEDDED
    return corpus if (config.shipped("pipelines") / corpus).is_dir() else None


def _lost(manifest: Manifest, name: str | None) -> Iterator[Finding]:
    """What the tokenizer of a pipeline's LLM loses of the sentences, where the LLM is at hand."""
    from spamo_cache.datasets.doctor.findings import Finding
    from spamo_cache.model.coverage import coverage, cut_words, unknown_words
    from spamo_cache.model.text import normalise
    from spamo_cache.model.tokens import Tokens
    from spamo_cache.model.weights import at_hand

    if name is None:
        return
    pipeline, path = resolve.load_pipeline(name, [])
    llm = at_hand(pipeline.llm.weights, path.parent)
    if llm is None:
        return
    where = f"LLM of {path.parent.name}/{path.name}: {pipeline.llm.weights}"
    texts = [normalise(clip.text, pipeline.text) for clip in manifest.clips()]
    try:
        found = coverage(Tokens(llm), texts, pipeline.decode.max_tokens)
    except WeightsError as error:
        yield Finding("warning", f"the tokenizer was not tried: {error.what}", where)
        return
    another = "another pipeline's LLM is tried by --pipeline"
    if (words := unknown_words(found, manifest.corpus)) is not None:
        yield Finding("warning", words, where, f"choose an LLM that knows the script; {another}")
    if (words := cut_words(found, manifest.corpus)) is not None:
        yield Finding("warning", words, where, f"raise decode.max_tokens; {another}")


def _print(document: Mapping[str, Any]) -> None:
    display.pairs(dict(_flat(document["facts"])))
    findings = [(f["level"], f["what"], f["where"], f["remedy"]) for f in document["findings"]]
    if findings:
        display.table(("", "what", "where", "to do"), findings)
    else:
        display.line("nothing to complain about")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if value not in ({}, [], None) else "none"))
    return rows
