"""Command line application: ``unetseg train | predict | evaluate | info | …``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from napari_unetseg.cli.batch_command import batch
from napari_unetseg.cli.console import complain, note, tell
from napari_unetseg.cli.evaluate_command import evaluate
from napari_unetseg.cli.exit_codes import (
    FAILED,
    INTERRUPTED,
    SOME_FAILED,
    WRONG_USAGE,
    SomeFailedError,
    WrongUsageError,
)
from napari_unetseg.cli.info_command import info
from napari_unetseg.cli.interrupts import Interrupted, Quit, quit_on_signals
from napari_unetseg.cli.measure_command import measure
from napari_unetseg.cli.outlines_command import outlines
from napari_unetseg.cli.predict_command import predict
from napari_unetseg.cli.report_command import report
from napari_unetseg.cli.train_command import train
from napari_unetseg.cli.worker_command import worker
from napari_unetseg.cli.wrong_values import describe_bad_parameter
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.versions import installed_versions
from napari_unetseg.runtime.distributed import world
from napari_unetseg.runtime.memory_errors import is_out_of_memory

app = typer.Typer(
    name="unetseg",
    help="Train a U-Net on annotated images, predict and evaluate masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, predict, batch, evaluate, info, measure, outlines, report, worker):
    app.command()(command)


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the versions that a bug report needs.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, as UNETSEG_DEBUG=1 does.")
    ] = False,
) -> None:
    del version, debug  # `main` has seen to them
    if world().size > 1 and context.invoked_subcommand != "train":
        raise WrongUsageError(
            f"torchrun works with train only; start unetseg {context.invoked_subcommand} "
            "without it."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Those after the program's name; None takes them from the system.

    Returns
    -------
    int
        0: done; 1: failed, with a sentence; 2: wrong usage; 3: some images failed, the others are
        done; 130: stopped by Ctrl-C; 143, 129: by SIGTERM, SIGHUP.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("UNETSEG_DEBUG", "") not in ("", "0")
    given = [a for a in given if a != "--debug"]
    if given == ["--version"]:
        for name, number in installed_versions().items():
            tell(f"{name} {number}")
        return 0
    # spinning OpenMP threads slow down on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with warnings.catch_warnings():
        if not debug:
            _quieten()
        try:
            with quit_on_signals():
                code = app(given, prog_name="unetseg", standalone_mode=False)
        except (Exception, KeyboardInterrupt, Quit) as error:  # noqa: BLE001 - every error is a line
            if debug:
                traceback.print_exception(error)
            return _failure(error)
    if code == INTERRUPTED:
        note("Stopped.")
    return int(code or 0)


def _quieten() -> None:
    """Silence libraries."""
    warnings.simplefilter("ignore")
    logger = logging.getLogger("tifffile")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _failure(error: BaseException) -> int:
    """Print an error in one line and return the exit code."""
    if isinstance(error, UserError):
        complain(str(error))
        return FAILED
    if isinstance(error, Interrupted):
        note(f"unetseg: {error}")
        return error.code
    if isinstance(error, Quit):
        note(f"Stopped by {error.name}.")
        return error.number + 128
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        note("Stopped.")
        return INTERRUPTED
    if isinstance(error, SomeFailedError):
        complain(str(error))
        return SOME_FAILED
    if isinstance(error, WrongUsageError):
        complain(str(error))
        return WRONG_USAGE
    if hasattr(error, "format_message"):  # typer's own errors; empty after it showed the help
        if text := describe_bad_parameter(error):
            complain(text)
        return WRONG_USAGE
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")
        return FAILED
    if is_out_of_memory(error):
        complain("There is not enough memory; close other programs or use smaller images.")
        return FAILED
    text = " ".join(str(error).split())
    complain(f"Unexpected {type(error).__name__}: {text} (--debug shows where it came from)")
    return FAILED
