"""`python -m graftpop.inspect CHECKPOINT...`: print figures of the weights of networks, per layer and in total."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from graftpop.cli.exit_codes import one_line_errors, run_command

__all__ = ["InspectCommand", "inspect"]

THRESHOLDS = [0.1, 0.01]
"""Both thresholds of the papers."""

CONVOLUTIONS_ONLY = {"auto": None, "conv": True, "all": False}


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
        list[float],
        typer.Option(metavar="L1...", min=0.0, help="L1 norms below which a unit, such as a filter, is invalid."),
    ] = THRESHOLDS,
    sites: Annotated[
        str,
        typer.Option(
            metavar="SITES",
            help="Weights to count: conv (convolutions), all (every weight with two axes), or auto (conv if they hold "
            "at least 90 % of the parameters of each network, otherwise all).",
        ),
    ] = "auto",
) -> None:
    """Print invalid units, entropies and norms per layer, side by side for two networks; only totals for more."""
    from rich.console import Console

    from graftpop.cli.weight_tables import network_figures, print_tables
    from graftpop.errors import GraftpopError, choose
    from graftpop.models.weight_file import read_any_weights
    from graftpop.sites.by_name import convolutions_suffice

    only = choose(CONVOLUTIONS_ONLY, sites, "--sites", GraftpopError)
    if only is None and len(checkpoints) > 1:
        # read before the figures, not with them, so that one network is in memory at a time
        only = all(convolutions_suffice(read_any_weights(path)) for path in checkpoints)
    networks = [
        network_figures(str(path), read_any_weights(path), threshold, convolutions_only=only) for path in checkpoints
    ]
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # rich assumes 80 columns for a file or pipe, which cuts the tables
    print_tables(console, networks, threshold)


if __name__ == "__main__":
    run_command(inspect, cls=InspectCommand)
