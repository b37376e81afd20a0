"""``spamo-cache manifest``: raw corpus -> table of clips, with splits of its own or new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import spamo_cache as sc
from spamo_cache import io
from spamo_cache.cli import completion, display, options, watching
from spamo_cache.errors import UsageError

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest

_ORDER = ("train", "dev", "test")


def manifest(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File to write, .parquet or .csv; of --folds the folder [default: D.parquet]",
        ),
    ] = None,
    resplit: Annotated[
        str | None,
        typer.Option(
            "--resplit",
            metavar="COLUMN",
            help="Split anew: no two splits share a signer, a sentence, or a value of COLUMN.",
            autocompletion=completion.resplits,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", metavar="K", help="With --resplit: K manifests; each clip is test in one."
        ),
    ] = None,
    hold_out: Annotated[
        int | None,
        typer.Option(
            "--hold-out",
            metavar="N",
            help="With --resplit: N signers (sentences, ...) are test; with --folds, in no fold.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="With --resplit: of the draw.")
    ] = 0,
    gaps: Annotated[
        Literal["refuse", "train"],
        typer.Option("--gaps", help="With --resplit: clips without a value in COLUMN."),
    ] = "refuse",
    limit: options.Limit = None,
    size: options.Size = None,
    json: options.Json = False,
) -> None:
    """Read a raw corpus and write its manifest: one row per clip.

    With --resplit its clips are split anew. Their features are read from the stores there are.

    Examples:

        spamo-cache manifest --dataset phoenix14t --root /data/PHOENIX-2014-T -o phoenix14t.parquet

        spamo-cache manifest --manifest phoenix14t.parquet --resplit signer --folds 5 -o folds
    """
    if resplit is None and (folds, hold_out, seed, gaps) != (None, None, 0, "refuse"):
        raise UsageError(
            "--folds, --hold-out, --seed and --gaps say how to split anew",
            remedy="say by what: --resplit signer",
        )
    if output is not None:
        _check(output, folder=folds is not None, anew=resplit is not None)
    found = sc.load_corpus(
        dataset, root=root, manifest=manifest, size=size, limit=limit, watcher=watching.watcher()
    )
    if resplit is None:
        made: Mapping[Path, Manifest] = {output or Path(f"{found.corpus}.parquet"): found}
    else:
        drawn = sc.resplit(found, resplit, folds=folds, hold_out=hold_out, seed=seed, gaps=gaps)
        made = _places(drawn, output, f"{found.corpus}-by-{resplit}", folds)
    for path, table in made.items():
        (table.write if path.suffix == ".parquet" else table.write_csv)(path)
    if json:
        documents = [_document(path, table) for path, table in made.items()]
        display.as_json(documents[0] if folds is None else {"folds": documents})
        return
    for note in next(iter(made.values())).notes:
        display.say(f"note: {note}")
    for path, table in made.items():
        _show(path, table, resplit)


def _check(output: Path, *, folder: bool, anew: bool) -> None:
    if folder:
        io.check_folder(output)
        return
    if output.suffix not in ({".parquet"} if anew else {".parquet", ".csv"}):
        remedy = "end its name in .parquet" + (
            ": CSV cannot say how it was split" if anew else " or .csv"
        )
        raise UsageError(f"cannot write {output.name!r}", remedy=remedy)
    io.check_output(output)


def _places(
    made: Sequence[Manifest], output: Path | None, name: str, folds: int | None
) -> Mapping[Path, Manifest]:
    if folds is None:
        return {output or Path(f"{name}.parquet"): made[0]}
    folder = output or Path(name)
    places = {folder / f"fold-{number}.parquet": one for number, one in enumerate(made, start=1)}
    others = set(folder.glob("fold-*.parquet")) - places.keys()
    if others:
        raise UsageError(
            f"holds {min(others).name} already, which is not one of these {folds} folds",
            where=folder,
            remedy="name another folder by -o, or remove its folds first",
        )
    return places


def _document(path: Path, table: Manifest) -> dict[str, Any]:
    text = None if table.text is None else {"kept": "raw", **table.text.model_dump()}
    clips = dict(Counter(table.table["split"].to_pylist()))
    document = {"corpus": table.corpus, "path": path, "clips": clips, "text": text}
    return {**document, "resplit": table.resplit, "notes": table.notes}


def _show(path: Path, table: Manifest, by: str | None) -> None:
    title = f"{table.corpus}: {path}" + (f" ({table.resplit})" if table.resplit else "")
    splits = table.table["split"].to_pylist()
    clips = Counter({split: 0 for split in _ORDER if split in splits})
    clips.update(splits)
    if by in {None, "sentence"}:
        display.table(("split", "clips"), clips.items(), title=title)
        return
    pairs = set(zip(splits, table.values(str(by)), strict=True))
    counts = Counter(split for split, value in pairs if value is not None)
    rows = [(split, count, counts[split]) for split, count in clips.items()]
    display.table(("split", "clips", f"{by}: values"), rows, title=title)
