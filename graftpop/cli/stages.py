"""Lines that a study's command prints before its table, and errors that name the option or file they come from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from graftpop.errors import GraftpopError

if TYPE_CHECKING:  # slow imports are made inside the functions, so that --help answers at once
    from graftpop.space import Space
    from graftpop.study.preflight import Findings

__all__ = ["console", "data_text", "prefixed_errors", "print_connecting", "print_findings", "print_stage"]

STAGE = "{:<10} {}"
"""A line with an action and its object; the action's column is as wide as the labels of the results."""

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 200  # rich assumes 80 columns for a file or pipe, which cuts the tables


def print_stage(action: str, what: str) -> None:
    """Print the action that the command begins now, because it takes seconds."""
    console.print(STAGE.format(action, what), markup=False, soft_wrap=True)


def print_connecting(address: str | None) -> None:
    """Print that the command starts Ray, or joins a cluster."""
    if address is None:
        print_stage("starting", "Ray on this machine")
    else:
        print_stage("joining", f"Ray at {address}")


def print_findings(findings: "Findings") -> None:
    """Print the notes on the data, and the sites of each network."""
    for note in findings.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    for line in findings.sites:
        console.print(f"sites      {line}", markup=False, soft_wrap=True)


def data_text(space: "Space") -> str:
    """Return the names of the data sets of a study, with a note on those that are downloaded first."""
    from graftpop.study.preflight import data_to_download

    absent = data_to_download(space)
    names = dict.fromkeys(settings.data.name for settings in space.settings_of("data"))
    return ", ".join(f"{name}, which is downloaded first" if name in absent else name for name in names)


@contextmanager
def prefixed_errors(where: str, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Prefix an error of the block with the `--set` option that set its key, else with the file of the space."""
    try:
        yield
    except GraftpopError as error:
        origins = (f"--set {override}" for override in overrides if str(error).startswith(override.split("=")[0]))
        raise type(error)(f"{next(origins, where)}: {error}") from error
