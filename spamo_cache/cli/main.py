"""The commands joined into one application, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from spamo_cache import __version__
from spamo_cache.cli import display, store
from spamo_cache.cli.analyze import analyze
from spamo_cache.cli.doctor import doctor
from spamo_cache.cli.evaluate import evaluate
from spamo_cache.cli.extract import extract
from spamo_cache.cli.manifest import manifest
from spamo_cache.cli.report import report
from spamo_cache.cli.reproduce import reproduce
from spamo_cache.cli.train import train
from spamo_cache.cli.translate import translate
from spamo_cache.errors import SpamoError

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

    def main(self, *args: Any, **extra: Any) -> Any:
        """What anybody prints passes by a net."""
        with display.guarded():
            return super().main(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpamoError as error:
            if error.heard:
                raise typer.Exit(error.exit_code) from error
            _fail(error, error)
        except BrokenPipeError as error:
            # Whoever read (`| head`) has read enough.
            raise typer.Exit(1) from error
        except OSError as error:
            _fail(SpamoError(error.strerror or str(error), where=error.filename), error)
        except MemoryError as error:
            _fail(SpamoError("out of memory", remedy=_TRACEBACK), error)
        except RecursionError as error:
            _fail(SpamoError("something is nested too deep", remedy=_TRACEBACK), error)
        except KeyboardInterrupt as error:
            word = "interrupted; what was finished is kept, and the same command goes on from there"
            _fail(SpamoError(word), error, INTERRUPTED)


_TRACEBACK = "SPAMO_TRACEBACK=1 shows where it was raised"


def _fail(shown: SpamoError, error: BaseException, code: int | None = None) -> NoReturn:
    if os.environ.get("SPAMO_TRACEBACK"):
        raise error
    display.error(str(shown))
    raise typer.Exit(shown.exit_code if code is None else code) from error


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
        display.line(f"spamo-cache {__version__}")
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
    try:
        app()
    finally:
        _drop_unwritten()


def _drop_unwritten() -> None:
    """Keep the end of the process from writing once more what could not be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
