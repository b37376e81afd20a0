"""``spamo-cache score``: the scorecard of translations that any system made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import spamo_cache as sc
from spamo_cache.cli import completion, display, options, scores


def score(
    hypotheses: Annotated[
        Path, typer.Argument(metavar="HYPOTHESES", help="Text, JSON Lines, CSV or TSV.")
    ],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="Likewise; a manifest will do.")
    ],
    *,
    language: Annotated[
        str,
        typer.Option("--language", metavar="L", help="Language of the references, as in German."),
    ] = "",
    tokenize: Annotated[
        str | None,
        typer.Option(
            "--tokenize",
            metavar="T",
            help="sacrebleu's tokenizer [default: the corpus's or language's usual one]",
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            metavar="C",
            help="Corpus, for published figures and the number of clips.",
            autocompletion=completion.corpora,
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the references.")] = "test",
    manifest: options.ManifestFile = None,
    root: options.Root = None,
    content_words: options.ContentWords = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, help="Resamples behind intervals.")
    ] = 1000,
    json: options.Json = False,
) -> None:
    """Score translations of any system as runs are scored: every convention, intervals, warnings.

    With a column id on both sides clips are paired by it, and one without a hypothesis counts as
    empty. With --manifest or --root the references are held against the corpus's own list.

    Example:

        spamo-cache score theirs.csv phoenix14t.csv --corpus phoenix14t
    """
    card = sc.score(
        hypotheses,
        references,
        language=language,
        tokenize=tokenize,
        corpus=corpus,
        split=split,
        manifest=manifest,
        root=root,
        content_words=content_words,
        bootstrap=bootstrap,
    )
    if json:
        display.as_json(card)
        return
    of = f": {card.split} split of {card.corpus}" if card.corpus else ""
    scores.show_scores(f"{hypotheses.name}{of}", card)
    scores.show_details(card)
