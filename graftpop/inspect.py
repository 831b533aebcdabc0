"""`python -m graftpop.inspect CHECKPOINT...`: print figures of the filters of networks, per layer and in total."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from graftpop.cli.exit_codes import one_line_errors, run_command

__all__ = ["InspectCommand", "inspect"]

THRESHOLDS = [0.1, 0.01]
"""Both thresholds of the papers."""

SIDE_BY_SIDE = 2


class InspectCommand(TyperCommand):
    """A command whose --threshold takes several values, `--threshold 0.1 0.01`; click has no such option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat --threshold before each of its values."""
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
            metavar="CHECKPOINT",
            show_default=False,
            help="A state dict of PyTorch or safetensors, best/ of a run, or a peer's file in a checkpoint.",
        ),
    ],
    threshold: Annotated[
        list[float], typer.Option(metavar="L1...", min=0.0, help="L1 norms below which a filter is invalid.")
    ] = THRESHOLDS,
) -> None:
    """Print invalid filters, entropies and norms per layer, side by side for two networks; only totals for more."""
    from rich.console import Console

    from graftpop.cli.weight_tables import layers_table, network_figures, totals_table
    from graftpop.models.weight_file import read_any_weights

    networks = [network_figures(str(path), read_any_weights(path), threshold) for path in checkpoints]
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # rich assumes 80 columns for a file or pipe, which cuts the tables
    if len(networks) <= SIDE_BY_SIDE:
        console.print(layers_table(networks, threshold), "")
    console.print(totals_table(networks, threshold))


if __name__ == "__main__":
    run_command(inspect, cls=InspectCommand)
