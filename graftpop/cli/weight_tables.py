"""Tables of figures of a network's weights, computed from its state dict alone.

A unit is invalid if its L1 norm is below a threshold, as in the tables of a run. The names and shapes of a state dict
show its sites here (`sites/by_name.py`), whereas a run finds them by running the network.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from graftpop.errors import CheckpointError
from graftpop.ops.criteria import Filters, l1, l2
from graftpop.ops.diagnostics import network_information
from graftpop.ops.entropy import entropy
from graftpop.ops.importance import num_invalid_filters
from graftpop.sites.by_name import convolutions_of, convolutions_suffice, share_of, units_first, weights_of

__all__ = ["LayerFigures", "NetworkFigures", "network_figures", "print_tables"]

ABSENT = "-"
SIDE_BY_SIDE = 2
UNLIMITED = 10_000
"""Columns of a terminal on which every table fits."""


@dataclass(frozen=True)
class LayerFigures:
    """The figures of the weight of one layer.

    Attributes:
        num_units: number of units: filters, rows of a Linear layer or an embedding.
        num_invalid: number of units with an L1 norm below each threshold.
        entropy_nats: entropy of all its weights together, in 10 bins; nan if their range is not finite.
        l1_norm: mean L1 norm of its units.
        l2_norm: mean L2 norm of its units.
    """

    num_units: int
    num_invalid: tuple[int, ...]
    entropy_nats: float
    l1_norm: float
    l2_norm: float


@dataclass(frozen=True)
class NetworkFigures:
    """The figures of one network.

    Attributes:
        name: path of the network, as the user gave it.
        layers: figures of each counted weight by its layer, in order.
        information_nats: sum of the entropies.
        share: share of the parameters that the counted weights hold, in [0, 1].
        are_convolutions: whether all counted weights are convolutions.
    """

    name: str
    layers: Mapping[str, LayerFigures]
    information_nats: float
    share: float
    are_convolutions: bool

    @property
    def total(self) -> LayerFigures:
        """Figures of all layers: sums of units, mean norms over all units, mean entropy per layer."""
        layers = self.layers.values()
        num_units = sum(layer.num_units for layer in layers)
        return LayerFigures(
            num_units=num_units,
            num_invalid=tuple(map(sum, zip(*(layer.num_invalid for layer in layers), strict=True))),
            entropy_nats=self.information_nats / len(layers),
            l1_norm=sum(layer.l1_norm * layer.num_units for layer in layers) / num_units,
            l2_norm=sum(layer.l2_norm * layer.num_units for layer in layers) / num_units,
        )


def network_figures(
    name: str, weights: Mapping[str, Tensor], thresholds: Sequence[float], *, convolutions_only: bool | None = None
) -> NetworkFigures:
    """Return the figures of a network.

    Args:
        name: path of the network, used in tables and messages.
        weights: state dict of the network.
        thresholds: L1 norms below which a unit is invalid.
        convolutions_only: whether to count convolutions alone; None: only if they hold at least 90 % of the parameters.

    Raises:
        CheckpointError: the state dict has no weight to count.
    """
    if convolutions_only is None:
        convolutions_only = convolutions_suffice(weights)
    counted = convolutions_of(weights) if convolutions_only else weights_of(weights)
    if not counted:
        kind, step = "weight with two axes longer than one", "give the weights of a network with layers"
        if convolutions_only:
            kind, step = "convolution, a weight with four dimensions", "set --sites all"
        raise CheckpointError(f"{name}: must hold a {kind}, got none; {step}")
    layers = {
        weight.removesuffix(".weight"): _layer_figures(units_first(weight, weights[weight]), thresholds)
        for weight in counted
    }
    information = network_information(torch.tensor([layer.entropy_nats for layer in layers.values()]))
    are_convolutions = counted == convolutions_of(weights)
    return NetworkFigures(name, layers, information, share_of(weights, counted), are_convolutions)


def _layer_figures(weight: Tensor, thresholds: Sequence[float]) -> LayerFigures:
    values, draws_nothing = weight.float(), torch.Generator()
    has_range = (values.max() - values.min()).isfinite()  # the range of finite values may overflow too
    return LayerFigures(
        num_units=len(weight),
        num_invalid=tuple(int(num_invalid_filters(values, threshold)) for threshold in thresholds),
        entropy_nats=float(entropy(values)) if has_range else math.nan,
        l1_norm=float(l1(Filters(values), draws_nothing).double().mean()),
        l2_norm=float(l2(Filters(values), draws_nothing).double().mean()),
    )


def print_tables(console: Console, networks: Sequence[NetworkFigures], thresholds: Sequence[float]) -> None:
    """Print which weights are counted, a table of layers and a table of totals, as the terminal's width permits.

    Args:
        console: the terminal.
        networks: figures of any number of networks; with more than two, the table of layers is left out.
        thresholds: the L1 norms with which the figures were computed.
    """

    def fits(table: Table) -> bool:
        return console.measure(table, options=console.options.update(width=UNLIMITED)).maximum <= console.width

    console.print(_counted_weights(networks))
    if len(networks) <= SIDE_BY_SIDE:
        layers = _layers_table(networks, thresholds)
        if len(networks) > 1 and not fits(layers):
            layers = _layers_table(networks, thresholds, narrow=True)
        console.print(layers, "")
    totals = _totals_table(networks, thresholds)
    if not fits(totals):
        totals = _totals_table(networks, thresholds, narrow=True)
        for number, network in enumerate(networks, start=1):
            console.print(f"({number}) {network.name}", soft_wrap=True)
    console.print(totals)


def _counted_weights(networks: Sequence[NetworkFigures]) -> str:
    """Return a line that names the counted weights and their share of the parameters."""
    kind = "convolution" if _are_convolutions(networks) else "weight with at least two axes"
    shares = dict.fromkeys(f"{100 * share:.1f}" for share in sorted(network.share for network in networks))
    lowest, *_, highest = *shares, *shares
    percent = lowest if lowest == highest else f"{lowest} to {highest}"
    return f"Counted: every {kind}, {percent} % of the parameters."


def _layers_table(networks: Sequence[NetworkFigures], thresholds: Sequence[float], *, narrow: bool = False) -> Table:
    """Return a table with one row per layer, and one column per figure and network.

    If `narrow`, it has one row per layer and network, and one column per figure.
    """
    headings = _headings(networks, thresholds)
    marks = [f"({number})" for number in range(1, len(networks) + 1)] if len(networks) > 1 else [""]
    columns = ["", *headings] if narrow else [f"{what} {mark}".rstrip() for what in headings for mark in marks]
    table = _table("layer", *columns)
    for name in dict.fromkeys(name for network in networks for name in network.layers):
        cells = [_cells(network.layers.get(name), thresholds) for network in networks]
        if narrow:
            for mark, own in zip(marks, cells, strict=True):
                table.add_row(name if mark == marks[0] else "", mark, *own)
        else:
            table.add_row(name, *(cell for column in zip(*cells, strict=True) for cell in column))
    return table


def _totals_table(networks: Sequence[NetworkFigures], thresholds: Sequence[float], *, narrow: bool = False) -> Table:
    """Return a table with one row per network, which has a number instead of its name if `narrow`."""
    units, *others = _headings(networks, thresholds)
    invalid, means = others[: len(thresholds)], others[len(thresholds) :]
    table = _table(
        "" if narrow else "checkpoint",
        units,
        *(part for heading in invalid for part in (heading, "%")),
        *means,
        "information nats",
    )
    for number, network in enumerate(networks, start=1):
        total = network.total
        name = f"({number}) {network.name}" if len(networks) > 1 else network.name
        num_units, *counts = _cells(total, thresholds)
        shares = [f"{100 * count / total.num_units:.2f}" for count in total.num_invalid]
        table.add_row(
            f"({number})" if narrow else name,
            num_units,
            *(part for pair in zip(counts[: len(thresholds)], shares, strict=True) for part in pair),
            *counts[len(thresholds) :],
            f"{network.information_nats:.3f}",
        )
    return table


def _are_convolutions(networks: Sequence[NetworkFigures]) -> bool:
    return all(network.are_convolutions for network in networks)


def _headings(networks: Sequence[NetworkFigures], thresholds: Sequence[float]) -> list[str]:
    units = "filters" if _are_convolutions(networks) else "units"
    return [units, *(f"< {threshold:g}" for threshold in thresholds), "entropy nats", "L1", "L2"]


def _cells(layer: LayerFigures | None, thresholds: Sequence[float]) -> list[str]:
    if layer is None:
        return [ABSENT] * (len(thresholds) + 4)
    return [
        str(layer.num_units),
        *map(str, layer.num_invalid),
        f"{layer.entropy_nats:.4f}",
        f"{layer.l1_norm:.4g}",
        f"{layer.l2_norm:.4g}",
    ]


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table
