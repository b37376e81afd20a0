"""The commands joined into one application, and what becomes of an error."""

from __future__ import annotations

import errno
import os
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from spamo_cache import __version__
from spamo_cache.cli import store
from spamo_cache.cli.analyze import analyze
from spamo_cache.cli.doctor import doctor
from spamo_cache.cli.evaluate import evaluate
from spamo_cache.cli.extract import extract
from spamo_cache.cli.manifest import manifest
from spamo_cache.cli.report import report
from spamo_cache.cli.reproduce import reproduce
from spamo_cache.cli.train import train
from spamo_cache.cli.translate import translate
from spamo_cache.errors import SpamoError, shortage

INTERRUPTED = 130
"""Exit code of a command that was interrupted, by the shells' convention."""


_ORDER = [
    *("doctor", "manifest", "extract", "store", "train", "evaluate"),
    *("translate", "analyze", "report", "reproduce"),
]


class Commands(TyperGroup):
    """Prints what a user can act on in place of a traceback; bugs keep theirs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the stages."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpamoError as error:
            if error.heard:
                raise typer.Exit(error.exit_code) from error
            _fail(str(error), error.exit_code, error)
        except OSError as error:
            if error.errno in {None, errno.EPIPE}:
                raise
            _fail(shortage(error) or _told(error), 1, error)
        except (MemoryError, RuntimeError, ImportError, SystemError) as error:
            what = shortage(error)
            if what is None:
                raise
            _fail(f"{what}\n  to do: raise this shell's limits (ulimit -a)", 1, error)
        except KeyboardInterrupt as error:
            word = "interrupted; what was finished is kept, and the same command goes on from there"
            _fail(word, INTERRUPTED, error)


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    if os.environ.get("SPAMO_TRACEBACK"):
        raise error
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(message, err=True)
    raise typer.Exit(code) from error


def _told(error: OSError) -> str:
    return f"{error.strerror}" + (f"\n  where: {error.filename}" if error.filename else "")


app = typer.Typer(
    cls=Commands,
    name="spamo-cache",
    help=(
        "Compute the frozen features of sign-language videos once; run every translation "
        "experiment from them."
    ),
    epilog="Set SPAMO_TRACEBACK=1 to see where an error was raised.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(store.app, name="store")
for _command in (
    *(doctor, manifest, extract, train, evaluate),
    *(translate, analyze, report, reproduce),
):
    app.command()(_command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"spamo-cache {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``spamo-cache`` script."""
    app()
