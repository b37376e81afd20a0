"""``spamo-cache evaluate``: a run's scores on a split, and all that is needed to judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache import config
from spamo_cache.cli import display, options, scores
from spamo_cache.errors import UsageError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import input_streams
from spamo_cache.workflow.stores import pipeline_stores

if TYPE_CHECKING:
    from spamo_cache.evaluate import Scorecard
    from spamo_cache.metrics import Difference
    from spamo_cache.train import Features


def evaluate(
    folders: options.Runs,
    *,
    split: Annotated[str, typer.Option("--split", help="Split to decode.")] = "test",
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Give every clip another's features: the floor.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="RUN", help="Test whether RUN differs by chance alone."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--spec-set",
            metavar="KEY=VALUE",
            help="Read stores of another cache spec, as in streams.motion.stride=4.",
        ),
    ] = None,
    store: options.Search = None,
    root: options.Root = None,
    llm: options.LLM = None,
    spec: options.Spec = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE", help="Write a row per clip, CSV or TSV."),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Decode a split and score it; every clip counts, the failed ones with an empty sentence.

    Several runs, as of several seeds, are followed by the mean and deviation of each score.

    Example:

        spamo-cache evaluate runs/phoenix14t/default --against runs/phoenix14t/no-align
    """
    if against is not None and len(folders) > 1:
        raise UsageError("--against is for one run", remedy="compare them one by one")
    changed = dict(config.assignment(text, "--spec-set") for text in changes or ())
    wanted = [*folders, *([] if against is None else [against])]
    found = [
        run(
            folder,
            split,
            shuffle=shuffle,
            device=device,
            changed=changed,
            store=store,
            root=root,
            llm=llm,
            spec=spec,
        )
        for folder in wanted
    ]
    cards = found[: len(folders)]
    compared = {} if against is None else _compared(folders[0], against, cards[0].name)
    if table is not None:
        scores.export(table, folders, cards)
    if json:
        display.as_json(_document(cards, compared))
    else:
        _show(folders, cards, against, compared)
    for card in cards:
        # They are scored, as empty sentences: what was asked is done.
        display.failures(list(card.failed.items()))


def run(
    folder: Path,
    split: str,
    *,
    shuffle: bool = False,
    device: str = "auto",
    changed: Mapping[str, Any] | None = None,
    store: str | None = None,
    root: Path | None = None,
    llm: Path | None = None,
    spec: str | None = None,
) -> Scorecard:
    """Decode and score a split of a run.

    Args:
        changed: dotted keys of the cache spec -> value, at test time only.
        store: root to look for stores in before all others.
        root: of the raw corpus, for a run that tuned its encoders.
        llm: folder of the run's LLM, where that has moved.
        spec: the run's cache spec, where that has moved.
    """
    from spamo_cache.evaluate import evaluate as score

    with display.progress(f"translating {split}", "clips") as advance:
        return score(
            folder,
            split,
            stores=_stores(folder, split, changed or {}, store=store, root=root, spec=spec),
            shuffle=shuffle or None,
            changed=changed,
            device=device,
            llm=llm,
            progress=advance,
        )


def _stores(
    folder: Path,
    split: str,
    changed: Mapping[str, Any],
    *,
    store: str | None,
    root: Path | None,
    spec: str | None,
) -> Mapping[str, Features]:
    """What the run was trained from or, of a changed cache spec, what fits that."""
    from spamo_cache.evaluate.stores import open_stores
    from spamo_cache.runs.folder import RunFolder

    run = RunFolder(folder)
    pipeline = run.pipeline()
    if not changed and pipeline.encoders is None:
        return open_stores(run, resolve.store_roots(store), split=split)
    # With the path of its spec, wherever that lies now.
    _, path = resolve.run_spec(run, spec)
    pipeline = pipeline.model_copy(update={"spec": str(path.resolve())})
    if not changed:
        own = open_stores(run, resolve.store_roots(store), split=split)
        return input_streams(pipeline, own, path.parent, root)
    other = pipeline.model_copy(update={"spec_set": {**pipeline.spec_set, **changed}})
    run.sentences()  # read from the file below, or an error that says what is wrong with it
    keys = next(iter(run.read_about().stores.values())).corpus_sha256
    _, stores = pipeline_stores(
        other,
        path.parent,
        manifest=run.manifest,
        store=store,
        corpus_sha256=keys,
        watcher=display.TERMINAL,
    )
    return input_streams(other, stores, path.parent, root)


def _compared(folder: Path, other: Path, name: str) -> dict[str, Difference]:
    from spamo_cache.evaluate import compare

    return compare(folder, other, name)


def _document(cards: Sequence[Scorecard], compared: Mapping[str, Difference]) -> dict[str, Any]:
    """One run's card as it is; otherwise the cards, and what they come to together."""
    documents = list(map(asdict, cards))
    if len(cards) == 1 and not compared:
        return documents[0]
    spreads = {name: asdict(one) for name, one in scores.spreads(cards).items()}
    against = {name: asdict(one) for name, one in compared.items()}
    return {"runs": documents, "spread": spreads, "against": against}


def _show(
    folders: Sequence[Path],
    cards: Sequence[Scorecard],
    against: Path | None,
    compared: Mapping[str, Difference],
) -> None:
    for card in cards:
        scores.show(card)
        if len(cards) == 1:
            scores.show_details(card)
    if len(cards) > 1:
        scores.show_spreads(cards)
    if against is not None:
        scores.show_differences(folders[0], against, compared)
