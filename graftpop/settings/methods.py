"""Sections of the methods. A method whose section is absent or null is off."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from graftpop.settings.section import (
    Arguments,
    Count,
    ExchangeSection,
    NotNegative,
    OnlyWith,
    Positive,
    Rate,
    Section,
    Share,
    SiteChoice,
    UserPart,
)
from graftpop.user_code import PYTHON

__all__ = [
    "AlignSettings",
    "DistillationSettings",
    "EmaSettings",
    "GraftSettings",
    "MutualSettings",
    "OuterSettings",
    "PapaSettings",
    "ReprSettings",
    "SpartaSettings",
    "SwaSettings",
    "TeacherSettings",
    "WashSettings",
]


EXTERNAL: Final = OnlyWith("graft.source", ("external",))
ADAPTIVE: Final = OnlyWith("graft.alpha", ("adaptive",))
SCORED: Final = OnlyWith("graft.alpha", ("adaptive", PYTHON))


class GraftSettings(ExchangeSection):
    """Grafting: weights of another peer, noise, or a peer's own strongest filters are blended into a peer."""

    rule: ClassVar[str] = "graftpop.exchange.grafting.Grafting"

    source: Literal["external", "internal", "noise"] = "external"
    """Source of the grafted weights. external: another peer, at the end of a round. internal: the peer's own strongest
    filters, copied into its invalid filters between epochs. noise: noise, added to its invalid filters between
    epochs."""

    alpha: Annotated[Share | Literal["adaptive"] | UserPart, EXTERNAL] = "adaptive"
    """Share of its own weights that a receiver keeps; 0.5 is plain averaging. adaptive: A/pi * atan(c * (H_receiver -
    H_donor)) + base, with H the score named by criterion. python:MODULE.FUNCTION: a function of both scores."""

    A: Annotated[Share, ADAPTIVE] = 0.4
    """Width of the interval around base in which alpha varies. The default is the value of the papers."""

    c: Annotated[Positive, ADAPTIVE] = 500.0
    """Steepness of alpha in the difference H_receiver - H_donor, per nat for entropy. The default is the value of the
    papers."""

    base: Annotated[Share, ADAPTIVE] = 0.5
    """alpha where receiver and donor have equal scores; alpha is clipped to [0, 1]. The default is the value of the
    papers, at which two peers take equal parts of each other."""

    criterion: Annotated[str, SCORED] = "entropy"
    """Measure of information, H in the formula of alpha. entropy: entropy of the weights' histogram, in nats. l1: L1
    norm of the weights. Other criteria score filters; the score of a layer is their mean. python:MODULE.FUNCTION: a
    user-defined criterion."""

    level: Annotated[Literal["layer", "filter"], SCORED] = "layer"
    """layer: one alpha per site, such as a convolution with its BatchNorm. filter: one alpha per unit of a site: a
    filter, a row of a Linear layer, an attention head."""

    sites: SiteChoice = "auto"
    """Weights that have an alpha of their own, or whose filters are ranked. conv_bn: convolutions whose output a
    BatchNorm consumes, as in the papers. all: every weight with at least two axes: convolutions, Linear layers, query,
    key and value by head, embeddings. auto: conv_bn if these hold at least 90 % of the parameters, otherwise all."""

    burn_in_rounds: Annotated[int, Field(ge=0), EXTERNAL] = 0
    """Number of rounds at the start that end without an exchange; smaller than the number of rounds."""

    threshold: Annotated[Positive, OnlyWith("graft.source", ("internal", "noise"))] = 0.1
    """L1 norm below which a filter counts as invalid."""

    noise_base: Annotated[float, Field(gt=0, lt=1), OnlyWith("graft.source", ("noise",))] = 0.975
    """The noise has the standard deviation noise_base ** epochs_trained."""

    num_bins: Annotated[int, Field(ge=2, le=4096), SCORED, OnlyWith("graft.criterion", ("entropy",))] = 10
    """Number of bins in the histogram from which entropy is computed."""

    compat: Literal["none", "released_code"] = "none"
    """none: the formulas of the papers. released_code: the numerics of the papers' released code, reproduced to the
    bit; needs source external, level layer and criterion entropy."""


class PapaSettings(ExchangeSection):
    """PAPA: every peer moves a small share of the way to the mean of all peers."""

    rule: ClassVar[str] = "graftpop.exchange.papa.Papa"
    topology: ClassVar[str] = "all"

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of the way per 10 optimizer steps at the initial learning rate; it falls with the learning rate. The
    default is the value of the paper, which exchanges after every 10 steps: population.exchange_every: 10."""


class WashSettings(ExchangeSection):
    """WASH: a few entries of the weights are shuffled among the peers, each entry by itself."""

    rule: ClassVar[str] = "graftpop.exchange.wash.Wash"
    topology: ClassVar[str] = "all"
    initialization: ClassVar[Literal["own", "same"]] = "same"

    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Probability that an entry of the first layer is shuffled in an exchange. It falls linearly to 0 in the last
    layer. The paper exchanges after every step: population.exchange_every: 1."""


class SpartaSettings(ExchangeSection):
    """SPARTA: a few entries of the weights, the same at every peer, become their mean over the peers."""

    rule: ClassVar[str] = "graftpop.exchange.sparta.Sparta"
    topology: ClassVar[str] = "all"

    share: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Probability that an entry is averaged in an exchange. The default is for exchanges after every step:
    population.exchange_every: 1."""


class OuterSettings(ExchangeSection):
    """DiLoCo: an outer optimizer moves common weights by the peers' mean change, and all continue from there."""

    rule: ClassVar[str] = "graftpop.exchange.outer.Outer"
    topology: ClassVar[str] = "all"
    initialization: ClassVar[Literal["own", "same"]] = "same"

    lr: Positive = 0.7
    """Learning rate of the outer optimizer; 1 with momentum 0 is averaging."""

    momentum: Rate = 0.9
    """Nesterov momentum of the outer optimizer."""


class AlignSettings(Section):
    """Alignment (weight matching), with graft, papa or a user-defined rule: before an exchange the units of each donor,
    such as filters and attention heads, are permuted to match the receiver's. The donor's outputs stay the same. It has
    no keys: `align: {}`."""


class TeacherSettings(Section):
    """One teacher; its weights come from exactly one of epochs, checkpoint and pretrained."""

    model: str | None = None
    """Name of the network, as in model.name. null: the one named in the checkpoint."""

    args: Arguments = Field(default={})
    """Keyword arguments of the network's builder, as in model.args."""

    epochs: Count | None = None
    """Epochs for which the teacher is trained at the start of each trial, before the students. null: not trained."""

    checkpoint: str | None = None
    """Path of a run's best/ folder or of a file of weights. null: no checkpoint."""

    pretrained: bool = False
    """Whether to load the weights that torchvision or timm publish for the model."""


class DistillationSettings(Section):
    """Distillation: an additional loss that pulls each peer toward the mean of its teachers' probabilities."""

    teachers: Annotated[list[TeacherSettings], Field(min_length=1, examples=[[{"model": "resnet56", "epochs": 200}]])]
    """List of teachers. Each names a model with epochs to train it for, a checkpoint (a run's best/ folder or a file of
    weights), or a torchvision or timm model with pretrained: true."""

    temperature: Positive = 2.0
    """Number by which all logits are divided before the softmax."""

    weight: NotNegative = 1.0
    """Factor of the distillation loss; the loss on the labels has the factor 1."""


class MutualSettings(Section):
    """Mutual learning: an additional loss that pulls each peer toward the other peers' probabilities."""

    exchange: Literal["logits", "snapshots"] = "logits"
    """logits: the peers exchange logits at every step, on the same batch (deep mutual learning). snapshots: each peer
    learns from the others' weights as of the end of the last round (codistillation)."""

    temperature: Positive = 1.0
    """Number by which all logits are divided before the softmax."""

    weight: NotNegative = 1.0
    """Factor of the mutual loss; the loss on the labels has the factor 1."""


class ReprSettings(Section):
    """RePr: cycles of training, dropping filters, training without them, and restoring them orthogonal."""

    S1: Count = 20
    """Epochs per cycle in which the whole network trains."""

    S2: Count = 10
    """Epochs per cycle in which the network trains without the dropped filters."""

    N: Count = 3
    """Number of cycles; N * (S1 + S2) must be smaller than the epochs of the training."""

    rate: Rate = 0.3
    """Share of the filters of all layers together that is dropped."""

    criterion: str = "orthogonality"
    """Score by which filters are ranked; those with the lowest are dropped."""

    skip_first: bool = True
    """Whether to leave the first convolution unchanged."""


class SwaSettings(Section):
    """Stochastic weight averaging: each peer ends with the mean of its weights after each of the last epochs."""

    start: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the epochs after which averaging starts."""

    lr: Positive | None = None
    """Constant learning rate used from the start of averaging. null: the schedule continues."""


class EmaSettings(Section):
    """Exponential moving average: each peer ends with a mean of its weights in which later optimizer steps count
    more."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Share of the mean that is kept at every optimizer step."""
