"""`graftpop spaces`: list the search spaces that ship with the package."""

from graftpop.cli.exit_codes import one_line_errors, run_command
from graftpop.shipped_spaces import shipped_spaces, summary

__all__ = ["spaces"]


@one_line_errors
def spaces() -> None:
    """List the search spaces that ship with graftpop, whose names `tune` and `init` take."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    found = shipped_spaces()
    width = max(map(len, found))
    for name, file in found.items():
        line = f"{name:<{width}}  {summary(file.read_text(encoding='utf-8'))}"
        console.print(line, soft_wrap=True, overflow="ellipsis" if console.is_terminal else "ignore")


if __name__ == "__main__":
    run_command(spaces)
