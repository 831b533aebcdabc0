"""Tables of figures of a network's convolutions, computed from its weights alone.

A filter is invalid if its L1 norm is below a threshold, as in the tables of a run. These figures count every weight
with four dimensions, whereas the tables of a run count sites: convolutions followed by a BatchNorm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from graftpop.errors import CheckpointError
from graftpop.exchange.state_dicts import convolutions_of
from graftpop.ops.criteria import Filters, l1, l2
from graftpop.ops.diagnostics import network_information
from graftpop.ops.entropy import entropy
from graftpop.ops.importance import num_invalid_filters

__all__ = ["LayerFigures", "NetworkFigures", "layers_table", "network_figures", "totals_table"]

ABSENT = "-"


@dataclass(frozen=True)
class LayerFigures:
    """The figures of one convolution.

    Attributes:
        num_filters: number of output channels.
        num_invalid: number of filters with an L1 norm below each threshold.
        entropy_nats: entropy of all its weights together, in 10 bins; nan if their range is not finite.
        l1_norm: mean L1 norm of its filters.
        l2_norm: mean L2 norm of its filters.
    """

    num_filters: int
    num_invalid: tuple[int, ...]
    entropy_nats: float
    l1_norm: float
    l2_norm: float


@dataclass(frozen=True)
class NetworkFigures:
    """The figures of one network.

    Attributes:
        name: path of the network, as the user gave it.
        layers: figures of each convolution by its name, in order.
        information_nats: sum of the entropies.
    """

    name: str
    layers: Mapping[str, LayerFigures]
    information_nats: float

    @property
    def total(self) -> LayerFigures:
        """Figures of all convolutions: sums of filters, mean norms over all filters, mean entropy per convolution."""
        layers = self.layers.values()
        num_filters = sum(layer.num_filters for layer in layers)
        return LayerFigures(
            num_filters=num_filters,
            num_invalid=tuple(map(sum, zip(*(layer.num_invalid for layer in layers), strict=True))),
            entropy_nats=self.information_nats / len(layers),
            l1_norm=sum(layer.l1_norm * layer.num_filters for layer in layers) / num_filters,
            l2_norm=sum(layer.l2_norm * layer.num_filters for layer in layers) / num_filters,
        )


def network_figures(name: str, weights: Mapping[str, Tensor], thresholds: Sequence[float]) -> NetworkFigures:
    """Return the figures of a network.

    Args:
        name: path of the network, used in tables and messages.
        weights: state dict of the network.
        thresholds: L1 norms below which a filter is invalid.

    Raises:
        CheckpointError: the state dict has no convolution.
    """
    layers = {
        weight.removesuffix(".weight"): _layer_figures(weights[weight], thresholds)
        for weight in convolutions_of(weights)
    }
    if not layers:
        raise CheckpointError(
            f"{name}: must hold a convolution, a weight with four dimensions, got none; give the "
            f"weights of a convolutional network"
        )
    information = network_information(torch.tensor([layer.entropy_nats for layer in layers.values()]))
    return NetworkFigures(name, layers, information)


def _layer_figures(weight: Tensor, thresholds: Sequence[float]) -> LayerFigures:
    values, draws_nothing = weight.float(), torch.Generator()
    has_range = (values.max() - values.min()).isfinite()  # the range of finite values may overflow too
    return LayerFigures(
        num_filters=len(weight),
        num_invalid=tuple(int(num_invalid_filters(values, threshold)) for threshold in thresholds),
        entropy_nats=float(entropy(values)) if has_range else math.nan,
        l1_norm=float(l1(Filters(values), draws_nothing).double().mean()),
        l2_norm=float(l2(Filters(values), draws_nothing).double().mean()),
    )


def layers_table(networks: Sequence[NetworkFigures], thresholds: Sequence[float]) -> Table:
    """Return a table with one row per convolution, and one column per figure and network.

    Args:
        networks: one network, or two to compare; a convolution that only one of them has gets a row too.
        thresholds: the thresholds of the figures.
    """
    marks = [""] if len(networks) == 1 else [f" ({number})" for number in range(1, len(networks) + 1)]
    table = _table("layer", *(f"{what}{mark}" for what in _headings(thresholds) for mark in marks))
    for name in dict.fromkeys(name for network in networks for name in network.layers):
        cells = [_cells(network.layers.get(name), thresholds) for network in networks]
        table.add_row(name, *(cell for column in zip(*cells, strict=True) for cell in column))
    return table


def totals_table(networks: Sequence[NetworkFigures], thresholds: Sequence[float]) -> Table:
    """Return a table with one row per network: filters, invalid filters and their share, means, information."""
    filters, *others = _headings(thresholds)
    invalid, means = others[: len(thresholds)], others[len(thresholds) :]
    table = _table(
        "checkpoint", filters, *(part for heading in invalid for part in (heading, "%")), *means, "information nats"
    )
    for number, network in enumerate(networks, start=1):
        total = network.total
        num_filters, *counts = _cells(total, thresholds)
        shares = [f"{100 * count / total.num_filters:.2f}" for count in total.num_invalid]
        table.add_row(
            network.name if len(networks) == 1 else f"({number}) {network.name}",
            num_filters,
            *(part for pair in zip(counts[: len(thresholds)], shares, strict=True) for part in pair),
            *counts[len(thresholds) :],
            f"{network.information_nats:.3f}",
        )
    return table


def _headings(thresholds: Sequence[float]) -> list[str]:
    return ["filters", *(f"< {threshold:g}" for threshold in thresholds), "entropy nats", "L1", "L2"]


def _cells(layer: LayerFigures | None, thresholds: Sequence[float]) -> list[str]:
    if layer is None:
        return [ABSENT] * len(_headings(thresholds))
    return [
        str(layer.num_filters),
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
