"""How a command runs and ends: one Typer app per command, exit codes, one-line errors."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from graftpop.errors import GraftpopError

__all__ = ["BAD_INPUT", "INTERRUPTED", "one_line_errors", "run_command"]

BAD_INPUT = 2
INTERRUPTED = 130


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that ends a `GraftpopError` with one line and exit code 2, and Ctrl-C with exit code 130."""

    @wraps(command)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except GraftpopError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def run_command(command: Callable[..., None], **options: Any) -> None:
    """Run one command as `python -m graftpop.NAME`; `graftpop.__main__` has all of them.

    Args:
        command: the command; NAME is the name of the function.
        options: keyword arguments of `typer.Typer.command`.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # a shell completes `graftpop` only
    app.command(**options)(command)
    app(prog_name=f"python -m graftpop.{command.__name__}")
