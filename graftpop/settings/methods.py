"""The sections of the methods: each is off where it is absent."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Count, NotNegative, Positive, Rate, Section, Share

__all__ = ["AttenuationSettings", "DistillationSettings", "GraftSettings", "MutualSettings", "ReprSettings",
           "SwaSettings", "TeacherSettings"]


class GraftSettings(Section):
    """Weights from elsewhere: a donor's at a round's end, or noise or a peer's own strong filters between epochs."""

    scion: Literal["external", "internal", "noise"] = "external"
    alpha: Share | Literal["adaptive"] = "adaptive"
    A: Share = 0.4
    c: Positive = 500.0
    criterion: Literal["entropy", "l1"] = "entropy"
    level: Literal["layer", "filter"] = "layer"
    burn_in_rounds: Annotated[int, Field(ge=0)] = 0   # first rounds without an exchange
    threshold: Positive = 0.1               # internal and noise: L1 norm below which a filter is invalid
    noise_base: Annotated[float, Field(gt=0, lt=1)] = 0.975   # noise: its deviation is noise_base ** epochs trained
    num_bins: Annotated[int, Field(ge=2, le=4096)] = 10
    compat: Literal["none", "released_code"] = "none"


class TeacherSettings(Section):
    """One teacher: trained first in the same trial, or taken from a checkpoint, or with published weights."""

    model: str | None = None                # None: the checkpoint says
    epochs: Count | None = None             # how long to train it, in the trial and before the students
    checkpoint: str | None = None           # a run's folder best/, or a file of a state_dict
    pretrained: bool = False                # the weights that torchvision or timm have for it


class DistillationSettings(Section):
    """A loss beside the labels': the mean of some teachers' probabilities, at every step."""

    teachers: Annotated[list[TeacherSettings], Field(min_length=1)]
    temperature: Positive = 2.0
    weight: NotNegative = 1.0


class MutualSettings(Section):
    """Peers that teach each other: on the same batch (deep mutual learning), or by their last snapshots."""

    exchange: Literal["logits", "snapshots"] = "logits"
    temperature: Positive = 1.0
    weight: NotNegative = 1.0


class ReprSettings(Section):
    """Cycles of RePr: train all, drop the filters that repeat others, train the rest, give them back orthogonal."""

    S1: Count = 20                          # epochs of the whole network
    S2: Count = 10                          # epochs without the dropped filters
    N: Count = 3                            # cycles
    rate: Rate = 0.3                        # share of all filters that is dropped
    criterion: str = "orthogonality"
    skip_first: bool = True                 # leave the first convolution alone


class AttenuationSettings(Section):
    """Weak filters are multiplied by a factor after every epoch, and removed at the end."""

    factor: Share = 0.5
    factor_schedule: str = "constant"
    rate: Rate = 0.3                        # share of each layer's filters that counts as weak
    rate_schedule: str = "constant"
    recoverable: bool = True                # whether what was weak trains on and may come back
    criterion: str = "l2"
    skip_first: bool = False                # leave the first convolution alone
    remove: bool = True                     # cut the weak filters out of the network at the end


class SwaSettings(Section):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs."""

    start: Annotated[float, Field(ge=0, lt=1)] = 0.75   # share of the epochs after which averaging begins
    lr: Positive | None = None              # constant rate from there on; None: the schedule goes on
