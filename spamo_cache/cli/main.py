"""The commands joined into one application, and what becomes of an error."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spamo_cache import __version__, extras
from spamo_cache.cli import display, options, store, watching
from spamo_cache.cli.analyze import analyze
from spamo_cache.cli.doctor import doctor
from spamo_cache.cli.evaluate import evaluate
from spamo_cache.cli.extract import extract
from spamo_cache.cli.init import init
from spamo_cache.cli.inspect import inspect
from spamo_cache.cli.manifest import manifest
from spamo_cache.cli.pose import pose
from spamo_cache.cli.report import report
from spamo_cache.cli.reproduce import reproduce
from spamo_cache.cli.score import score
from spamo_cache.cli.train import train
from spamo_cache.cli.translate import translate
from spamo_cache.errors import SpamoError, UsageError, actionable

INTERRUPTED = 130
"""Exit code of a command that was interrupted, by the shells' convention."""


_ORDER = [
    *("doctor", "manifest", "inspect", "init", "pose", "extract", "store", "train", "evaluate"),
    *("score", "translate", "analyze", "report", "reproduce"),
]


class Commands(TyperGroup):
    """Prints what a user can act on in place of a traceback; bugs keep theirs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the stages."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def main(self, *args: Any, **extra: Any) -> Any:
        """What anybody prints passes by a net."""
        watching.set_verbosity(0)
        with display.guarded():
            try:
                return super().main(*args, **extra)
            except OSError as error:
                # Help and errors of usage are printed outside of any command.
                sys.exit(_report(error))

    def invoke(self, ctx: Any) -> Any:
        try:
            _check_folder()
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if _shown(error) is None:
                raise
            raise typer.Exit(_report(error)) from error


def _check_folder() -> None:
    """Libraries end the process where the working directory is gone."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("this folder has been removed", remedy="change to another one") from None


def _report(error: BaseException) -> int:
    """Print what ended a command; its exit code."""
    shown = _shown(error)
    if os.environ.get("SPAMO_TRACEBACK") or shown is None:
        raise error
    # Whoever read (`| head`) has read enough.
    if not isinstance(error, BrokenPipeError) and not shown.heard:
        # Where stderr is lost as well, the code tells it all.
        with suppress(OSError):
            display.error(str(shown))
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else shown.exit_code


def _shown(error: BaseException) -> SpamoError | None:
    if isinstance(error, KeyboardInterrupt):
        return SpamoError("interrupted; what is finished is kept: run the same command again")
    return extras.explained(error) or actionable(error)


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
    *(doctor, manifest, inspect, init, pose, extract, train, evaluate),
    *(score, translate, analyze, report, reproduce),
):
    app.command()(options.with_verbosity(_command))


def _version(asked: bool) -> None:
    if asked:
        display.line(f"spamo-cache {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    del version  # its callback has seen to it
    watching.change_verbosity(verbose=verbose, quiet=quiet)


def main() -> None:
    """Entry point of the ``spamo-cache`` script."""
    # It would read what every installed package offers; nothing here wants any of it.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    with display.guarded():
        try:
            app()
        except Exception:  # noqa: BLE001 (it is told in full)
            # A bug's, or one that was asked for: here, where it passes by the net.
            traceback.print_exc()
            sys.exit(1)
        finally:
            _drop_unwritten()


def _drop_unwritten() -> None:
    """Keep the end of the process from writing once more what could not be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
