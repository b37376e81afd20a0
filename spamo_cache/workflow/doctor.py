"""What would go wrong with a corpus, before it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache import config
from spamo_cache.errors import CorpusError, StoreError, UsageError, WeightsError
from spamo_cache.workflow import EMBEDDED, resolve, stores
from spamo_cache.workflow.init import base_for, main_language
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.doctor import Diagnosis, Finding


def examine(
    dataset: str | None = None,
    *,
    root: Path | None = None,
    manifest: Path | None = None,
    sample: int | None = None,
    everything: bool = False,
    pipeline: str | None = None,
    watcher: Watcher = QUIET,
) -> Diagnosis:
    """Check a corpus; without one, and without a pipeline, this machine.

    Args:
        sample: clips to decode; None is 64.
        everything: decode every clip.
        pipeline: whose LLM the sentences are for; None is the corpus's own.

    Raises:
        UsageError: an unknown corpus, a missing folder, a sample of everything.
    """
    from spamo_cache.doctor import SAMPLE, environment

    if dataset is None and root is None and manifest is None and pipeline is None:
        return environment.examine()
    if everything and sample is not None:
        raise UsageError("--all and --sample exclude each other", remedy="leave one of them out")
    if pipeline is not None:
        resolve.named_pipeline(pipeline, [])  # a slip is told before the clips are decoded
    number = None if everything else SAMPLE if sample is None else sample
    return _corpus(dataset, root, manifest, number, pipeline=pipeline, watcher=watcher)


def _corpus(
    dataset: str | None,
    root: Path | None,
    manifest: Path | None,
    sample: int | None,
    *,
    pipeline: str | None,
    watcher: Watcher,
) -> Diagnosis:
    from spamo_cache.datasets import registry
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.doctor import lint
    from spamo_cache.doctor.findings import diagnosis

    if manifest is not None:
        known, where = None, resolve.folder(root or manifest.parent)
        if not manifest.exists():
            Manifest.read(manifest)  # a slip of the user's is an error, not a finding

        def load() -> Manifest:
            return resolve.load_manifest(dataset, manifest, where)[0]

    else:
        name = dataset or EMBEDDED
        known = registry.corpus(name)
        where = resolve.corpus_root(name, root, watcher=watcher)
        load = partial(known.manifest, where)
    once = cache(load)
    with watcher.task("doctor", "a sample", "clips") as advance:
        checked = lint(where, once, corpus=known, sample=sample, progress=advance)
    with suppress(CorpusError):  # a finding by now
        table = once()
        lost = _lost(table, pipeline or _usual(table))
        facts, unseen = _valid_rows(table.corpus)
        return diagnosis([*checked.findings, *lost, *unseen], {**checked.facts, **facts})
    return checked


_FEW = 0.5
"""Share of valid rows below which a stream says little."""


def _valid_rows(corpus: str) -> tuple[dict[str, Any], list[Finding]]:
    """What of the rows extracted last is valid, by stream and split, where a stream says so."""
    from spamo_cache.doctor.findings import Finding
    from spamo_cache.store.reader import FeatureStore

    shares: dict[str, dict[str, float]] = {}
    findings = []
    for path in stores.extracted(corpus):
        with suppress(StoreError):
            store = FeatureStore.open(path)
            found = {split: round(share, 4) for split, share in store.valid_shares().items()}
            if store.stream in shares or not found:
                continue  # superseded, or without validity
            shares[store.stream] = found
            findings += [
                Finding(
                    "warning",
                    f"{share:.0%} of the rows of {store.stream} are valid in {split}",
                    str(path),
                    "look at some clips by `spamo-cache inspect CLIP --boxes`; where the region is "
                    "to be seen, make the poses by another estimator",
                )
                for split, share in found.items()
                if share < _FEW
            ]
    return ({"valid_rows": shares} if shares else {}), findings


def _usual(manifest: Manifest) -> str:
    """The pipeline that comes with a corpus, or that ``init`` would take as the base of another."""
    if (config.shipped("pipelines") / manifest.corpus).is_dir():
        return manifest.corpus
    return base_for(main_language(manifest))


def _lost(manifest: Manifest, name: str) -> Iterator[Finding]:
    """What the tokenizer of a pipeline's LLM loses of the sentences, where the LLM is at hand."""
    from spamo_cache.doctor.findings import Finding
    from spamo_cache.model.text import normalise
    from spamo_cache.model.tokens import Tokens, coverage, cut_words, unknown_words
    from spamo_cache.model.weights import at_hand

    pipeline, path = resolve.named_pipeline(name, [])
    llm = at_hand(pipeline.llm.weights, path.parent)
    if llm is None:
        return
    where = f"LLM of {path.parent.name}/{path.name}: {pipeline.llm.weights}"
    texts = [normalise(clip.text, pipeline.text) for clip in manifest.clips()]
    try:
        covered = coverage(Tokens(llm), texts, pipeline.decode.max_tokens)
    except WeightsError as error:
        yield Finding("warning", f"the tokenizer was not tried: {error.what}", where)
        return
    another = "another pipeline's LLM is tried by --pipeline"
    if (words := unknown_words(covered, manifest.corpus)) is not None:
        yield Finding("warning", words, where, f"choose an LLM that knows the script; {another}")
    if (words := cut_words(covered, manifest.corpus)) is not None:
        yield Finding("warning", words, where, f"raise decode.max_tokens; {another}")
