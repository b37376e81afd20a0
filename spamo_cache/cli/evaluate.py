"""``spamo-cache evaluate``: a run's scores on a split, and all that is needed to judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import spamo_cache as sc
from spamo_cache import io
from spamo_cache.cli import completion, display, options, scores, watching
from spamo_cache.errors import UsageError

if TYPE_CHECKING:
    from spamo_cache.metrics import Difference
    from spamo_cache.runs.records import Scorecard


def evaluate(
    folders: options.Runs,
    *,
    split: Annotated[str, typer.Option("--split", help="Split to decode.")] = "test",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMNS",
            help="Scores by group too: signer or another column of the manifest, length, "
            "seen-sentence, seen-signer.",
            autocompletion=completion.columns,
        ),
    ] = None,
    shuffle: Annotated[
        bool,
        typer.Option("--shuffle", help="Give every clip another clip's features: the floor."),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="RUN",
            help="Test whether the difference to RUN is significant.",
            autocompletion=completion.runs,
        ),
    ] = None,
    spec_set: Annotated[
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
    content_words: options.ContentWords = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE", help="Write a row per clip, CSV or TSV."),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Decode a split and score it; every clip counts, the failed ones with an empty sentence.

    Several runs, as of several seeds, are followed by the mean and deviation of each score.

    Examples:

        spamo-cache evaluate runs/phoenix14t/default --by signer,length

        spamo-cache evaluate runs/phoenix14t/default --against runs/phoenix14t/no-align
    """
    from spamo_cache.workflow import resolve
    from spamo_cache.workflow.evaluate import check_run

    if against is not None and len(folders) > 1:
        raise UsageError("--against is for one run", remedy="compare them one by one")
    wanted = [*folders, *([] if against is None else [against])]
    for folder in wanted if len(wanted) > 1 else ():
        check_run(folder, split)  # a slip in the last is told before the first is decoded
    if table is not None:
        io.check_output(table)
    cards = [
        sc.evaluate(
            folder,
            split=split,
            by=by,
            shuffle=shuffle,
            spec_set=spec_set or (),
            store=store,
            root=root,
            llm=llm,
            spec=spec,
            content_words=content_words,
            device=device,
            watcher=watching.watcher(),
        )
        for folder in wanted
    ][: len(folders)]
    compared = {} if against is None else _compared(folders[0], against, cards[0].name)
    if table is not None:
        scores.export(table, folders, cards)
    if json:
        display.as_json(_document(cards, compared))
    else:
        _show(folders, cards, against, compared, by=resolve.names(by) or ())
    for card in cards:
        # They are scored as empty sentences, so the command has done its work.
        display.failures(list(card.failed.items()))


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
    *,
    by: Sequence[str],
) -> None:
    for folder, card in zip(folders, cards, strict=False):  # of --against the first alone
        scores.show(folder, card)
        scores.show_groups(card, by)
        if len(cards) == 1:
            scores.show_details(card)
    if len(cards) > 1:
        scores.show_spreads(cards)
    if against is not None:
        scores.show_differences(folders[0], against, compared)
