"""How many peers there are, what passes between them, and what is measured of them."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, Positive, Section

__all__ = ["DiagnosticsSettings", "PopulationSettings"]


class PopulationSettings(Section):
    """How many peers, how they differ, when they meet, and what they give in the end."""

    num_peers: Count = 2
    """Networks that train side by side; grafting needs 2."""

    topology: str = "ring"
    """Who gives to whom. ring: peer i receives from peer i - 1. random_pairs: two by two, drawn each round. all: each
    receives the mean of the others. best: the best peer gives to all others."""

    epochs_per_round: Count = 1
    """Epochs of training between two exchanges."""

    mode: Literal["sync", "async"] = "sync"
    """sync: each exchange is one of all peers, after the same round. async: who has trained takes its donor's
    newest snapshot, of whatever round, and goes on; not with mutual or diagnostics.pairs."""

    max_staleness: Annotated[int, Field(ge=0)] = 2
    """Under async, how many rounds a donor's snapshot, or any peer, may be behind before it is waited for."""

    diversity: Literal["none", "learning_rate"] = "none"
    """none, or learning_rate: peer i of n starts at lr * (1 + cos(pi * (n - i) / n)) / 2."""

    output: Literal["best_peer", "ensemble", "uniform_soup", "greedy_soup"] = "best_peer"
    """Whose accuracy is the population's. best_peer. ensemble: the mean of all peers' probabilities. uniform_soup: that
    of their weights. greedy_soup: that of as many as do not lower the validation accuracy."""

    deadline_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10.0
    """How many times the median round a peer may need before it counts as lost, but never less than a minute."""

    round_timeout_s: Positive = 7200.0
    """Seconds of a round after which a peer counts as lost however long the rounds are."""

    max_peer_restarts: Annotated[int, Field(ge=0)] = 3
    """How often a lost peer is replaced before the trial fails."""

    replace_timeout_s: Positive = 300.0
    """Seconds that a lost peer may take to find room on the cluster and to start."""

    min_peers: Count | None = None
    """With how many peers to go on if a lost one finds no room. null: with all of them, from the last round on."""

    peers_per_actor: Count | Auto = "auto"
    """How many peers share a process: they train one after the other, which needs less memory, and are lost together.
    auto: those that share a core, where all cores have equally many; 1 on cards, with mode async and with
    mutual.exchange logits."""


class DiagnosticsSettings(Section):
    """What is measured by round beyond the figures of every peer."""

    thresholds: list[Positive] = Field(default=[])
    """L1 norms below which filters are counted."""

    density_of: str | None = None
    """Folder best/ of a baseline, whose valid and invalid filters are followed. null: none."""

    density_threshold: Positive = 0.1
    """L1 norm that parts the valid filters of that baseline from the invalid ones."""

    pairs: bool = False
    """Whether distance and disagreement of every two peers are measured."""
