"""The section `pruning`: criterion, allocation, selection and schedule, and the published combinations of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field

from graftpop.settings.section import Count, NotNegative, OnlyWith, Rate, Section

__all__ = ["PRESETS", "TORCH_PRUNING", "PruningMethod", "PruningSettings"]

TORCH_PRUNING: Final = "torch_pruning:"
"""Prefix of the importances of torch-pruning, which score the units of several layers together."""

Preset = Literal[
    "attenuation",
    "soft",
    "asymptotic",
    "softer",
    "hard",
    "geometric_median",
    "bn_importance",
    "passive",
    "clr_rnf",
    "gate_decorator",
    "interaction",
    "dagger",
    "holistic",
]
Allocation = Literal["uniform", "global", "cross_layer", "utilization", "budget"]
Selection = Literal["lowest", "k_reciprocal"]
Schedule = Literal["attenuate", "soft", "asymptotic", "softer", "hard", "gated"]
Coupled = Literal["apart", "sum", "skip"]


class PruningMethod(NamedTuple):
    """The choices that make up a method of pruning; see the keys of `PruningSettings`."""

    criterion: str = "l2"
    allocation: Allocation = "uniform"
    selection: Selection = "lowest"
    schedule: Schedule = "attenuate"
    coupled: Coupled = "apart"


PRESETS: Final[Mapping[Preset, Mapping[str, Any]]] = {
    "attenuation": {"schedule": "attenuate"},
    "soft": {"schedule": "soft"},
    "asymptotic": {"schedule": "asymptotic"},
    "softer": {"schedule": "softer"},
    "hard": {"schedule": "hard"},
    "geometric_median": {"criterion": "geometric_median", "schedule": "soft"},
    "interaction": {"criterion": "interaction", "allocation": "utilization", "schedule": "hard", "coupled": "skip"},
    "dagger": {"criterion": "dagger", "allocation": "global", "schedule": "hard", "coupled": "skip"},
    "bn_importance": {"criterion": "bn_activation", "schedule": "hard", "coupled": "skip"},
    "passive": {"criterion": "passive", "schedule": "hard", "coupled": "skip"},
    "clr_rnf": {"allocation": "cross_layer", "selection": "k_reciprocal", "schedule": "hard", "coupled": "skip"},
    "gate_decorator": {"criterion": "taylor", "allocation": "global", "schedule": "gated", "coupled": "sum"},
    "holistic": {"allocation": "budget", "schedule": "asymptotic"},
}
"""Keys that each preset fixes; `docs/methods/pruning.md` names the sources."""


class PruningSettings(Section):
    """Pruning: weak units of a network (filters, rows of Linear layers) are attenuated or dropped between epochs, and
    cut out of the network at the end."""

    preset: Preset | None = None
    """Published combination of criterion, allocation, selection, schedule and coupled; it fixes the values of those
    that it names. null: none."""

    criterion: str | None = None
    """Score of a unit; those with the lowest are weak. null: that of the preset, otherwise l2."""

    allocation: Allocation | None = None
    """How many units each layer loses. uniform: one share for all. global: the lowest scores of all layers together.
    cross_layer: more where weights are small for their FLOPs. utilization: more where units interact little. budget:
    the numbers that reach target with the smallest sum of lost scores. null: that of the preset, otherwise uniform."""

    flops_exponent: Annotated[NotNegative, OnlyWith("pruning.allocation", (None, "cross_layer"))] = 0.5
    """Exponent of a layer's FLOPs, by which its weights are divided for cross_layer. CLR-RNF has 0.5 for VGG-16, 10 for
    ResNet-56 and 5 for ResNet-110."""

    selection: Selection | None = None
    """Which units of a layer go. lowest: those with the lowest scores. k_reciprocal: those that are not among the
    nearest neighbors of all others (RNF), whatever their scores. null: that of the preset, otherwise lowest."""

    schedule: Schedule | None = None
    """Treatment of weak units after every epoch. attenuate: multiplied by factor. soft: set to zero, but trained
    further. asymptotic: like soft, with few units at first. softer: multiplied by a factor that falls from 1 to 0.
    hard: set to zero for good. gated: like hard, a few at a time, after epochs in which only gates train. null: that of
    the preset, otherwise attenuate."""

    factor: Annotated[float, Field(gt=0, le=1), OnlyWith("pruning.schedule", (None, "attenuate"))] = 0.5
    """Number by which weak units are multiplied after every epoch, with schedule attenuate."""

    rate: Annotated[Rate, OnlyWith("pruning.target", (None,))] = 0.3
    """Share of the units that are weak, of each layer or of all together."""

    target: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the network to be left after the removal, in place of a rate. null: the rate decides."""

    target_of: Literal["flops", "parameters"] = "flops"
    """Size that the target is a share of. flops: FLOPs of one image, which is also the share of multiplications.
    parameters: parameters of the network."""

    start: Rate = 0.0
    """Share of the epochs before the first pruning; it follows the first epoch at the earliest."""

    coupled: Coupled | None = None
    """Units of several layers that can only be removed together, as in a residual stream. apart: each layer is pruned
    by itself; what cannot be removed stays as zeros. sum: their scores are added and they go together. skip: they stay;
    only layers whose units can be removed without others are pruned. null: that of the preset, otherwise sum with a
    target and apart without."""

    least_share: Rate = 0.0
    """Share of the units of every layer that stays in any case; one unit always does."""

    ticks: Annotated[Count, OnlyWith("pruning.schedule", (None, "gated"))] = 10
    """Epochs in a row in which only the gates train and units are dropped after each epoch, with schedule gated."""

    tock_epochs: Annotated[Count, OnlyWith("pruning.schedule", (None, "gated"))] = 10
    """Epochs in a row in which everything trains, with schedule gated; each cycle begins with them."""

    sparsity: Annotated[NotNegative, OnlyWith("pruning.schedule", (None, "gated"))] = 0.001
    """Factor of the sum of the absolute gates that is added to the loss in the tock_epochs, with schedule gated."""

    finetune: Annotated[Rate, OnlyWith("pruning.schedule", (None, "gated"))] = 0.25
    """Share of the epochs, at the end, in which no more units are dropped and everything trains, with schedule
    gated."""

    skip_first: bool = False
    """Whether to leave the first layer unchanged."""

    remove: bool = True
    """Whether to cut the dropped units out of the network at the end of the training."""

    @property
    def method(self) -> PruningMethod:
        """The method: the values of the preset and of the keys, and defaults where both leave them open."""
        default = PruningMethod(coupled="apart" if self.target is None else "sum")
        keys: dict[str, Any] = {key: getattr(self, key) for key in PruningMethod._fields}
        given = {key: value for key, value in keys.items() if value is not None}
        return default._replace(**{**(PRESETS[self.preset] if self.preset is not None else {}), **given})
