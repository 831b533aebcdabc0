"""The command line in this process."""

from typer.testing import CliRunner, Result

from graftpop.__main__ import app

__all__ = ["graftpop"]


def graftpop(*arguments: str) -> Result:
    """Run `graftpop` with some arguments."""
    return CliRunner().invoke(app, list(arguments))
