"""How a command runs and ends: one Typer app per command, exit codes, signals, one-line errors."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from types import FrameType
from typing import IO, Any, cast

import typer

from graftpop.errors import GraftpopError, one_line

__all__ = ["BAD_INPUT", "OutputError", "interrupted_code", "one_line_errors", "run_app", "run_command"]

BAD_INPUT = 2
INTERRUPTED = 130
"""Exit code after Ctrl-C, or if trials are left to resume."""

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that act like Ctrl-C."""

OF_THE_MACHINE = {errno.EACCES, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EPERM, errno.EROFS}
"""Numbers of errors of disks, mounts and limits. Any other OSError is a bug and keeps its traceback."""

STDOUT, STDERR = 1, 2

_code = INTERRUPTED  # of the last signal that interrupted this process


class OutputError(Exception):
    """Standard output cannot be written: its disk is full, or its reader is gone."""


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that reports an error or an interrupt in one line and exits.

    Bad input, a disk that is full or read-only, and standard output that cannot be written give exit code 2. Ctrl-C
    gives 130, SIGTERM 143 and SIGHUP 129.
    """

    @wraps(command)
    def guarded(*arguments: Any, **options: Any) -> None:
        with _one_line_ends(), _ending_by_signals():
            command(*arguments, **options)

    return guarded


@contextmanager
def _one_line_ends() -> Iterator[None]:
    output = _Output(sys.stdout)
    try:
        with redirect_stdout(cast(IO[str], output)):
            yield
            output.flush()  # a failure at Python's exit would print several lines
    except (GraftpopError, OutputError) as error:
        _end(f"error: {error}", BAD_INPUT)
    except KeyboardInterrupt:
        _end("interrupted", interrupted_code())
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        _end(f"error: {one_line(error)}; free space, or make the place writable", BAD_INPUT)


def _end(line: str, code: int) -> None:
    """Print a line to standard error, where that is possible, and exit."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # the terminal is gone
        _discard(STDERR)
    raise SystemExit(code) from None


def interrupted_code() -> int:
    """Return the exit code of an interrupted command: 128 plus the number of its signal, 130 for Ctrl-C."""
    return _code


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _code
    _code = 128 + number
    of_ctrl_c = signal.getsignal(signal.SIGINT)  # Tune's own while trials run
    if not callable(of_ctrl_c):
        raise KeyboardInterrupt
    of_ctrl_c(signal.SIGINT, frame)


@contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP act like Ctrl-C inside the block."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: a handler that C code installed
                signal.signal(number, handler)


class _Output:
    """Standard output, whose first failure is an `OutputError`; all later output is discarded."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115  # closed before the start

    def write(self, text: str) -> int:
        with self._failures():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _discard(STDOUT)
            raise OutputError(
                f"standard output: must be writable, got '{error.strerror}'; write it to another file or pipe"
            ) from error


def _discard(descriptor: int) -> None:
    """Redirect a file descriptor to the null device, so that the flush at Python's exit does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def run_app(app: typer.Typer, name: str) -> None:
    """Run a Typer app under the name of its command; a failure to print its help is one line too."""
    with _one_line_ends():
        app(prog_name=name)


def run_command(command: Callable[..., None], **options: Any) -> None:
    """Run one command as `python -m graftpop.NAME`; `graftpop.__main__` has all of them.

    Args:
        command: the command; NAME is the name of the function.
        options: keyword arguments of `typer.Typer.command`.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # completion belongs to `graftpop`
    app.command(**options)(command)
    run_app(app, f"python -m graftpop.{command.__name__}")
