"""How many peers there are, what passes between them, and what is measured of them."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Count, Positive, Section

__all__ = ["MeasureSettings", "PopulationSettings"]


class PopulationSettings(Section):
    """How many peers, how they differ, when they meet, and what they give in the end."""

    num_peers: Count = 2
    topology: str = "ring"
    epochs_per_round: Count = 1
    mode: Literal["wait_for_all", "no_wait"] = "wait_for_all"   # no_wait: a donor's newest snapshot, of whatever round
    max_staleness: Annotated[int, Field(ge=0)] = 2   # no_wait: how many rounds it, or any peer, may be behind
    diversity: Literal["none", "learning_rate"] = "none"
    output: Literal["best_peer", "ensemble", "uniform_soup", "greedy_soup"] = "best_peer"  # whose test accuracy counts
    deadline_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10.0  # who needs more median rounds is lost
    round_limit_s: Positive = 7200.0        # who needs longer is lost, however long the rounds are
    max_peer_restarts: Annotated[int, Field(ge=0)] = 3   # how often a lost peer is replaced before the trial fails
    replace_limit_s: Positive = 300.0       # how long a lost peer may take to find room and to start
    min_peers: Count | None = None          # with how many to go on if it finds none; None: all, from the last round
    peers_per_actor: Count | Literal["auto"] = "auto"   # in one process, one after the other; auto: who share a core


class MeasureSettings(Section):
    """What is measured by round beyond the figures of every peer."""

    thresholds: list[Positive] = Field(default=[])         # L1 norms below which to count filters
    density_of: str | None = None           # best/ of a baseline, whose valid and invalid filters are followed
    density_threshold: Positive = 0.1       # L1 norm that parts them there
    pairs: bool = False                     # distance and disagreement of every two peers
