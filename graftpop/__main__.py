"""`graftpop NAME` is the same as `python -m graftpop.NAME`."""

import typer

from graftpop.export import export
from graftpop.init import init
from graftpop.inspect import InspectCommand, inspect
from graftpop.report import report
from graftpop.tune import tune

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Populations of networks that exchange weights by filter grafting, tuned by Ray Tune.",
)
app.command(name="init")(init)
app.command(name="tune")(tune)
app.command(name="report")(report)
app.command(name="export")(export)
app.command(name="inspect", cls=InspectCommand)(inspect)


def main() -> None:
    """Run the command line."""
    app(prog_name="graftpop")


if __name__ == "__main__":
    main()
