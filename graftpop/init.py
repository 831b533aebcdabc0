"""`python -m graftpop.init [FILE]`: write a search space to start from, and its schema for the editor."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from graftpop.cli.exit_codes import one_line_errors, run_command
from graftpop.errors import SpaceError, StorageError, choose
from graftpop.shipped_spaces import complete_space, shipped_schema, shipped_spaces

__all__ = ["init"]


@one_line_errors
def init(
    file: Annotated[Path, typer.Argument(help="YAML file to write; its schema is written next to it.")] = Path(
        "space.yaml"
    ),
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Shipped space to copy; `graftpop spaces` lists them.",
            autocompletion=complete_space,
        ),
    ] = "first",
) -> None:
    """Write a copy of a shipped space, by default a small one that runs as it is and explains its keys."""
    if not file.name:  # the working directory, or /
        raise SpaceError(f"{file}: must be a file, got a folder; give the path of a new file")
    schema_file = file.with_suffix(".schema.json")
    for path in (file, schema_file):
        if path.exists():
            raise SpaceError(f"{path}: must not exist yet, got a file; choose another FILE")
    space = choose(shipped_spaces(), source, "--from").read_text(encoding="utf-8").partition("\n")[2]
    shown = shlex.quote(str(file))
    first_line = f"# yaml-language-server: $schema={schema_file.name}\n"  # names the schema for the editor
    texts = {
        schema_file: shipped_schema().read_text(encoding="utf-8"),
        file: first_line + space.replace(f"search_spaces/{source}.yaml", shown),
    }
    for path, text in texts.items():
        try:
            with path.open("x", encoding="utf-8") as written:
                written.write(text)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}; choose another FILE") from error
    print(f"{file}\nnext: python -m graftpop.tune --space {shown} --dry-run")


if __name__ == "__main__":
    run_command(init)
