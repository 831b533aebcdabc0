"""The sections of the methods: each is off where it is absent."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Count, NotNegative, Positive, Rate, Section, Share

__all__ = [
    "AttenuationSettings",
    "DistillationSettings",
    "GraftSettings",
    "MutualSettings",
    "ReprSettings",
    "SwaSettings",
    "TeacherSettings",
]


class GraftSettings(Section):
    """Weights from elsewhere: a donor's at a round's end, or noise or a peer's own strong filters between epochs."""

    source: Literal["external", "internal", "noise"] = "external"
    """Where grafted weights come from. external: another peer, at a round's end. internal: a peer's own strongest
    filters, and noise: noise, into its invalid filters between epochs."""

    alpha: Share | Literal["adaptive"] = "adaptive"
    """Share of its own weights that a receiver keeps. adaptive: A/pi * atan(c * (H_receiver - H_donor)) + 1/2."""

    A: Share = 0.4
    """Width of alpha's interval around 1/2; the default is the published one."""

    c: Positive = 500.0
    """Steepness of alpha in the difference of the entropies, per nat; the default is the published one."""

    criterion: Literal["entropy", "l1"] = "entropy"
    """By which alpha is adapted: entropy, or l1, the norm of the weights."""

    level: Literal["layer", "filter"] = "layer"
    """layer: one alpha for a convolution and its BatchNorm. filter: one for each filter."""

    burn_in_rounds: Annotated[int, Field(ge=0)] = 0
    """First rounds without an exchange, fewer than all."""

    threshold: Positive = 0.1
    """internal and noise: L1 norm below which a filter is invalid."""

    noise_base: Annotated[float, Field(gt=0, lt=1)] = 0.975
    """noise: its deviation is noise_base ** epochs trained."""

    num_bins: Annotated[int, Field(ge=2, le=4096)] = 10
    """Bins of the entropies' histograms."""

    compat: Literal["none", "released_code"] = "none"
    """none, or released_code: the released code's numerics to the bit."""


class TeacherSettings(Section):
    """One teacher: trained first in the same trial, or taken from a checkpoint, or with published weights."""

    model: str | None = None
    """Which network it is, as in model.name. null: the checkpoint says."""

    epochs: Count | None = None
    """Epochs that it is trained for, in the trial and before the students. null: it is not trained."""

    checkpoint: str | None = None
    """A run's folder best/, or a file of weights. null: none."""

    pretrained: bool = False
    """Whether it has the weights that torchvision or timm have for it."""


class DistillationSettings(Section):
    """A loss beside the labels': the mean of some teachers' probabilities, at every step."""

    teachers: Annotated[list[TeacherSettings], Field(min_length=1, examples=[[{"model": "resnet56", "epochs": 200}]])]
    """Networks that teach. In place of epochs, for which it is trained first, a teacher may have a checkpoint, a run's
    folder best/ or a file of weights, or pretrained: true with a model of torchvision or timm."""

    temperature: Positive = 2.0
    """By which logits are divided."""

    weight: NotNegative = 1.0
    """Weight of this loss; that of the labels has 1."""


class MutualSettings(Section):
    """Peers that teach each other: on the same batch (deep mutual learning), or by their last snapshots."""

    exchange: Literal["logits", "snapshots"] = "logits"
    """logits: on the same batch, step by step. snapshots: by each other's weights of the last round."""

    temperature: Positive = 1.0
    """By which logits are divided."""

    weight: NotNegative = 1.0
    """Weight of this loss; that of the labels has 1."""


class ReprSettings(Section):
    """RePr: cycles of training all, dropping filters, training the rest, and giving filters back orthogonal."""

    S1: Count = 20
    """Epochs of the whole network."""

    S2: Count = 10
    """Epochs without the dropped filters."""

    N: Count = 3
    """Cycles; N * (S1 + S2) is less than the epochs."""

    rate: Rate = 0.3
    """Share of all filters that is dropped."""

    criterion: str = "orthogonality"
    """By which the lowest filters are dropped."""

    skip_first: bool = True
    """Whether the first convolution is left alone."""


class AttenuationSettings(Section):
    """Weak filters are multiplied by a factor after every epoch, and removed at the end."""

    factor: Share = 0.5
    """By which weak filters are multiplied. 0: soft filter pruning."""

    factor_schedule: str = "constant"
    """constant, or falling: in a straight line to 0."""

    rate: Rate = 0.3
    """Share of each layer's filters that is weak."""

    rate_schedule: str = "constant"
    """constant, or growing: from 0, fast at first."""

    recoverable: bool = True
    """Whether weak filters train on and may come back; false is hard pruning and needs factor 0."""

    criterion: str = "l2"
    """By which the lowest filters are weak."""

    skip_first: bool = False
    """Whether the first convolution is left alone."""

    remove: bool = True
    """Whether weak filters are cut out of the network at the end."""


class SwaSettings(Section):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs."""

    start: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the epochs after which averaging begins."""

    lr: Positive | None = None
    """Constant learning rate from there on. null: the schedule goes on."""
