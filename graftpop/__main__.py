"""The `graftpop` command; `graftpop NAME` is the same as `python -m graftpop.NAME`."""

from typing import Annotated

import typer

from graftpop import __version__
from graftpop.cli.exit_codes import run_app
from graftpop.export import export
from graftpop.init import init
from graftpop.inspect import InspectCommand, inspect
from graftpop.report import report
from graftpop.spaces import spaces
from graftpop.tune import TuneCommand, tune

__all__ = ["main"]

app = typer.Typer(pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(spaces)
app.command()(init)
app.command(cls=TuneCommand)(tune)
app.command()(report)
app.command(cls=InspectCommand)(inspect)
app.command()(export)


def print_version(is_wanted: bool) -> None:
    """Print the version and exit, if `--version` is given."""
    if is_wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def graftpop(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Populations of networks that exchange weights by filter grafting, tuned by Ray Tune."""


def main() -> None:
    """Run the command line."""
    run_app(app, "graftpop")


if __name__ == "__main__":
    main()
