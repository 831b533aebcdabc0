"""The interface of exchange rules: how a peer changes its weights, given the weights of others.

To add a rule, write a subclass in a file of its own, and a section of settings that names it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graftpop.exchange.measures import SiteMeasures
from graftpop.rows import GraftColumns
from graftpop.settings import Settings
from graftpop.sites import Site
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

__all__ = ["ExchangeContext", "ExchangeRule"]


@dataclass(frozen=True)
class ExchangeContext:
    """Everything that a rule knows about its peer.

    Attributes:
        peer: index of the peer.
        state: the tensors of its network; `state.buffer` has all floating-point ones, (N,).
        sites: sites of the network, in module order.
        measures: entropies and invalid filters of the sites, measured after the last epoch.
        settings: the population's settings.
        num_steps: returns the number of optimizer steps so far; seeds random numbers, together with the peer.
        lr_ratio: returns the current learning rate divided by the initial one, or by the one after a warmup.
        steps_between: number of optimizer steps from one exchange to the next.
        momentum: returns the mean of past gradients of a parameter by its name, writable in place; None before the
            first step, or if the optimizer keeps none.
        user_parts: user-defined functions of the rule, by key of the settings, such as `graft.alpha`.
    """

    peer: int
    state: FlatState
    sites: Sequence[Site]
    measures: SiteMeasures
    settings: Settings
    num_steps: Callable[[], int] = lambda: 0
    lr_ratio: Callable[[], float] = lambda: 1.0
    steps_between: int = 1
    momentum: Callable[[str], Tensor | None] = lambda name: None
    user_parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


class ExchangeRule:
    """One peer's part in every exchange.

    A subclass overrides `receive`, and other methods as needed. Exchanges take place after rounds, or every
    `population.exchange_every` optimizer steps; in the latter case snapshots have weights only. A rule draws random
    numbers from generators seeded by the settings' seed, peers and `context.num_steps()`, so that a run can be
    repeated.

    Args:
        context: the peer, its network and its settings.

    Attributes:
        name: prefix of the rule's state in a checkpoint.
    """

    name = "exchange"

    def __init__(self, context: ExchangeContext) -> None:
        self.context = context

    @property
    def weights(self) -> Tensor:
        """All floating-point tensors of the peer's network as one flat tensor (N,); writing to it changes them."""
        return self.context.state.buffer

    def begin(self) -> None:
        """Prepare for exchanges, before the first epoch that an exchange can follow.

        With `population.branch_at` and `population.sync_until` the weights are then the ones that all peers share.
        """

    def publish(self) -> Mapping[str, Tensor]:
        """Return further tensors for the peer's snapshot; receivers find them in `Snapshot.published`."""
        return {}

    def receive(self, donors: Sequence[Snapshot]) -> Mapping[str, float] | None:
        """Change the peer's weights in place, given the snapshots of its donors, in the order of their indices.

        All snapshots were taken before any receiver changed. Do not write to them.

        Returns:
            Figures by name, for `diagnostics.parquet`; None for none.
        """
        raise NotImplementedError

    def columns(self) -> GraftColumns | None:
        """Return the columns of `grafts.parquet` for the last exchange, one value per site; None: the rule has none."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that a resumed rule needs besides the network and the epoch."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
