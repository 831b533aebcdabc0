"""Sections of the population and of its diagnostics."""

from typing import Annotated, Any, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, OnlyWith, Positive, Rate, Section, Share

__all__ = ["DiagnosticsSettings", "PopulationSettings"]


class Range(Section):
    """Evenly spaced numbers."""

    range: Annotated[tuple[float, float], Field(strict=False)]
    """The first and the last number."""

    def value(self, index: int, num: int) -> float:
        """Return one of `num` numbers by its index, from 0; the first if it is the only one."""
        first, last = self.range
        return first + (last - first) * index / max(1, num - 1)


Dotted = Annotated[str, Field(pattern=r"^\w+\..+$")]
"""A key with its section."""

Spread = Annotated[list[Any], Field(min_length=1)] | Range
"""Values of one key for the peers."""


class PopulationSettings(Section):
    """The population: number of peers, exchange between them, recovery from lost peers, and the output."""

    num_peers: Count = 2
    """Number of networks that train side by side; grafting from another peer needs at least 2."""

    topology: str = "auto"
    """Donors of each peer. auto: the exchange rule's own, ring for grafting. ring: the peer before it; for peer 0 the
    last. random_pairs: the other peer of its pair; new pairs are drawn each time. all: the mean of all others. mean:
    the mean of all peers. best: the peer with the best validation score, which itself receives nothing."""

    initialization: Literal["auto", "own", "same"] = "auto"
    """own: each peer draws initial weights of its own. same: all peers start from the same weights. auto: the exchange
    rule's own, same for wash and outer, own for the others."""

    branch_at: Rate = 0.0
    """Share of the rounds that one peer trains alone, rounded to whole rounds but never all of them. The others then
    start as its copies, with its momentum, each with its own data order and augmentation. 0, or a share that is rounded
    to 0: all peers train from the start."""

    sync_until: Share = 0.0
    """Share of the epochs, rounded to whole epochs, in which the peers average their gradients before every optimizer
    step. They start from the same weights, keep them equal, and exchange weights only afterwards. 0: no such epochs.
    1: data-parallel training."""

    epochs_per_round: Count = 1
    """Epochs per round."""

    exchange_every: Literal["round"] | Count = "round"
    """round: an exchange follows every round but the last. A number n: all peers exchange after every n optimizer
    steps, at the same step; not with mode async."""

    repair: bool = False
    """Whether each peer recomputes the running statistics of BatchNorm after every exchange, in one pass over its
    training images (REPAIR, for layers that a BatchNorm follows). Exchanges must follow rounds."""

    mode: Literal["sync", "async"] = "sync"
    """sync: all peers exchange after the same round. async: a peer grafts its donor's newest snapshot and continues
    without waiting; not with mutual or diagnostics.pairs."""

    max_staleness: Annotated[int, Field(ge=0), OnlyWith("population.mode", ("async",))] = 2
    """How many rounds a donor's snapshot or the slowest peer may be behind before a peer waits."""

    diversity: Literal["none", "learning_rate"] | Annotated[dict[Dotted, Spread], Field(min_length=1)] = "none"
    """none: all peers train alike. learning_rate: peer i of n, from 1, starts at lr * (1 + cos(pi * (n - i) / n)) / 2.
    A map gives the peers values of keys of training, augmentation and task.label_smoothing: those of a list in turn, or
    a range divided evenly: {training.weight_decay: [0, 0.001], augmentation.mixup: {range: [0, 0.4]}}."""

    output: Literal["best_peer", "ensemble", "uniform_soup", "greedy_soup"] = "best_peer"
    """Result of the population. best_peer: the peer with the best validation score, the task's primary metric.
    ensemble: the combined predictions of all peers, such as their mean probabilities. uniform_soup: the mean of all
    peers' weights. greedy_soup: a mean of weights; peers are added from best to worst if its validation score does not
    fall."""

    deadline_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10.0
    """A peer counts as lost when a round takes it longer than this many median rounds, and longer than a minute."""

    round_timeout_s: Positive = 7200.0
    """Upper limit of that deadline, in seconds; the deadline of the first round."""

    max_peer_restarts: Annotated[int, Field(ge=0)] = 3
    """How often one peer may be lost and replaced before the trial fails."""

    replace_timeout_s: Positive = 300.0
    """Seconds within which a lost peer must find room on the cluster and start again."""

    min_peers: Count | None = None
    """Smallest number of peers with which the trial continues when a lost peer finds no room. null: num_peers. With
    fewer peers the trial is retried from its last round, see tune.max_failures."""

    peers_per_actor: Count | Auto = "auto"
    """Number of peers per process. They train one after the other, need less memory, and are lost together. auto: the
    peers that share a core, if every core has the same number of peers or a core has more than eight; 1 on GPUs, and
    where peers must run at the same time: mode async, sync_until, a number in exchange_every, mutual.exchange
    logits."""

    @property
    def makes_soup(self) -> bool:
        """Whether the output is a mean of weights."""
        return self.output in ("uniform_soup", "greedy_soup")


class DiagnosticsSettings(Section):
    """Additional measurements after every round."""

    thresholds: list[Positive] = Field(default=[])
    """L1 norms; for each, the number of filters below it is recorded."""

    density_of: str | None = None
    """Path of a baseline's best/ folder; records the mean L1 norm of the filters valid in the baseline, and of those
    invalid in it. null: not recorded."""

    density_threshold: Positive = 0.1
    """L1 norm below which a filter of that baseline counts as invalid."""

    pairs: bool = False
    """Whether to record, for every pair of peers, the distance of their weights and the share of validation items on
    which they disagree."""
