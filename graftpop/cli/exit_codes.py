"""Exit codes of the commands, and one-line errors."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from graftpop.errors import GraftpopError

__all__ = ["BAD_INPUT", "INTERRUPTED", "one_line_errors"]

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
