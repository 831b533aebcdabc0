"""`python -m graftpop.init [FILE]`: write a search space to start from, and its schema for the editor."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from graftpop.cli.exit_codes import one_line_errors, run_command
from graftpop.errors import SpaceError, StorageError, choose
from graftpop.shipped_spaces import complete_space, shipped_spaces

__all__ = ["init"]

TREE: Final[dict[str, Any]] = {
    "name": "first-study",
    "data": {"name": "digits"},
    "model": {"name": "resnet8"},
    "training": {"epochs": 4, "batch_size": 64, "lr": 0.1, "schedule": "cosine"},
    "population": {"num_peers": 2},
    "graft": {"A": {"uniform": [0.0, 1.0]}, "c": {"loguniform": [1.0, 500.0]}},
    "tune": {"num_samples": 4},
}
FIRST_LINE: Final = "# yaml-language-server: $schema={schema}\n"
"""Names the schema for the editor, in every space."""

HEAD: Final = """\
# A first study: two small networks learn scikit-learn's digits side by side and graft filters from each other. Ray Tune
# trains four such populations with different values of graft.A and graft.c. Under a minute on 2 cores.
#   python -m graftpop.tune --space {file} --dry-run   check, estimate the duration, print the plan
#   python -m graftpop.tune --space {file}             run the study; the report is RUN/report.html
#
# To search a key, write a domain in place of its value, here or by --set:
#   {{choice: [2, 3]}}   one of the values
#   {{uniform: [0.0, 1.0]}}  {{loguniform: [1.0, 500.0]}}   a number between two
#   {{quniform: [0.0, 1.0, 0.1]}}  {{randint: [2, 8]}}   in steps; both ends included
#
# Next, change a line or add one:
#   training.epochs: 12 and tune.num_samples: 16, for clearer differences
#   population.num_peers: {{choice: [2, 3, 4]}}, to search the number of networks too
#   data: {{name: cifar10}} with model: {{name: resnet20}}
#   data: {{name: folder, root: FOLDER, image_size: 64}}, your images; model: {{name: python:my_nets.Net}}, your network
#   papa, wash, sparta, outer: other exchange rules, in place of graft; align beside graft or papa
#   distillation, mutual, repr, pruning, swa or ema: other methods
#   variants and seeds, for a comparison
# An editor that reads the first line completes the keys and shows their meaning.
"""


@one_line_errors
def init(
    file: Annotated[Path, typer.Argument(help="YAML file to write; its schema is written next to it.")] = Path(
        "space.yaml"
    ),
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Copy a space that `graftpop spaces` lists.",
            autocompletion=complete_space,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a small search space that runs as it is and explains its keys, or a copy of a shipped one."""
    schema_file = file.with_suffix(".schema.json")
    for path in (file, schema_file):
        if path.exists():
            raise SpaceError(f"{path}: must not exist yet, got a file; choose another FILE")
    shipped = choose(shipped_spaces(), source, "--from") if source is not None else None
    from graftpop.space.commented_yaml import commented_yaml
    from graftpop.space.json_schema import schema_text, space_schema

    shown, first_line = shlex.quote(str(file)), FIRST_LINE.format(schema=schema_file.name)
    if shipped is None:
        text = commented_yaml(TREE, first_line + HEAD.format(file=shown))
    else:
        text = first_line + shipped.read_text(encoding="utf-8").partition("\n")[2]
    texts = {schema_file: f"{schema_text(space_schema())}\n", file: text}
    for path, text in texts.items():
        try:
            with path.open("x", encoding="utf-8") as written:
                written.write(text)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}; choose another FILE") from error
    print(f"{file}\nnext: python -m graftpop.tune --space {shown} --dry-run")


if __name__ == "__main__":
    run_command(init)
