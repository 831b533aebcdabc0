"""`python -m graftpop.inspect CHECKPOINT...`: what the filters of networks look like, by layer and in all."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from graftpop.cli.exit_codes import one_line_errors

__all__ = ["InspectCommand", "inspect", "main"]

THRESHOLDS = [0.1, 0.01]
"""The papers' two."""

SIDE_BY_SIDE = 2


class InspectCommand(TyperCommand):
    """A command whose --threshold takes several values, `--threshold 0.1 0.01`, which click has no word for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        repeated: list[str] = []
        lists_thresholds = False
        for argument in args:
            lists_thresholds = argument == "--threshold" or (lists_thresholds and _is_number(argument))
            if lists_thresholds and argument != "--threshold" and repeated[-1] != "--threshold":
                repeated.append("--threshold")
            repeated.append(argument)
        return list(super().parse_args(ctx, repeated))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@one_line_errors
def inspect(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT...",
            show_default=False,
            help="A state dict of PyTorch or safetensors, best/ of a run, a peer's file of a checkpoint.",
        ),
    ],
    threshold: Annotated[
        list[float], typer.Option(metavar="L1...", min=0.0, help="L1 norms below which a filter is invalid.")
    ] = THRESHOLDS,
) -> None:
    """Print invalid filters, entropies and norms by layer; two networks side by side; of more the sums alone."""
    from rich.console import Console

    from graftpop.cli.weight_tables import layers_table, network_figures, totals_table
    from graftpop.models.network_file import read_any_weights

    networks = [network_figures(str(place), read_any_weights(place), threshold) for place in checkpoints]
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no width of its own, and 80 columns would cut the tables
    if len(networks) <= SIDE_BY_SIDE:
        console.print(layers_table(networks, threshold), "")
    console.print(totals_table(networks, threshold))


def main() -> None:
    """Run the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=InspectCommand)(inspect)
    app(prog_name="python -m graftpop.inspect")


if __name__ == "__main__":
    main()
