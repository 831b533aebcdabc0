"""Commands end with one line and an exit code: signals, failing standard output, full or read-only disks."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftpop.cli.exit_codes import one_line_errors

OUTPUT_HELP = [sys.executable, "-m", "graftpop", "tune", "--help"]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # studies of earlier tests may have left another
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ending(command: Any) -> int:
    """Run a command and return its exit code."""
    with pytest.raises(SystemExit) as exit:
        one_line_errors(command)()
    return int(str(exit.value.code))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_a_command_like_ctrl_c(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(lambda: os.kill(os.getpid(), number)) == code
    assert capsys.readouterr().err == "interrupted\n"


def test_signal_acts_by_the_present_handler_of_ctrl_c() -> None:
    """Tune replaces it while trials run, and ends the study."""
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    one_line_errors(lambda: os.kill(os.getpid(), signal.SIGTERM))()
    assert seen == [signal.SIGINT]


def test_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    one_line_errors(lambda: os.kill(os.getpid(), signal.SIGHUP))()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_or_read_only_disk_ends_a_command_with_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        raise OSError(number, os.strerror(number), "/run/space.yaml")

    assert ending(write) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "/run/space.yaml" in line
    assert os.strerror(number) in line


def test_other_os_errors_keep_their_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        one_line_errors(lambda: os.rmdir("/nonexistent"))()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(OUTPUT_HELP, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith("error: standard output: ")) == (2, True)
    assert os.strerror(errno.ENOSPC) in line


def test_standard_output_without_a_reader_is_one_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(OUTPUT_HELP, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith("error: standard output: ")) == (2, True)


def test_closed_standard_output_is_no_failure() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *OUTPUT_HELP], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
