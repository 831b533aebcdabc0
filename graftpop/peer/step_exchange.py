"""Exchanges within a round: after every n optimizer steps, at the same step of every peer."""

import random
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from graftpop.exchange.alignment import Alignment, receive_aligned
from graftpop.exchange.donors import donors_among
from graftpop.exchange.rule import ExchangeRule
from graftpop.settings import Settings
from graftpop.training.snapshot import Snapshot

__all__ = ["StepExchange"]

NONE, NO_INTEGERS = np.empty(0), np.empty(0, np.int64)


class StepExchange:
    """Applies a peer's exchange rule to the weights of all peers, gathered after an optimizer step.

    Args:
        rule: the peer's rule.
        settings: the population's settings.
        peer: index of the peer.
        start: number of optimizer steps at the beginning that no exchange follows.
        alignment: aligns the donors; None: they stay as they are.

    Attributes:
        figures: mean of the rule's figures over the exchanges since `restart`, by name.
    """

    def __init__(
        self, rule: ExchangeRule, settings: Settings, peer: int, start: int, alignment: Alignment | None = None
    ) -> None:
        self._every, self._start = int(settings.population.exchange_every), start
        self._rule, self._settings, self._peer, self._alignment = rule, settings, peer, alignment
        self.restart()

    def follows(self, step: int) -> bool:
        """Return whether an exchange follows an optimizer step, counted from 1."""
        return step > self._start and step % self._every == 0

    def restart(self) -> None:
        """Forget the figures of earlier exchanges."""
        self._sums: dict[str, float] = {}
        self._num_exchanges = 0

    @property
    def figures(self) -> Mapping[str, float]:
        """Mean figures of the exchanges since `restart`."""
        return {name: total / self._num_exchanges for name, total in self._sums.items()}

    def __call__(self, weights_KN: Tensor, step: int) -> None:
        """Exchange, given the flat weights of all K peers, (K, N), after an optimizer step, counted from 1."""
        peers = range(len(weights_KN))
        rng = random.Random(f"{self._settings.seed}/donors/step {step}")
        donors = donors_among(peers, self._settings.topology, 0, rng).get(self._peer, ())
        if not donors:
            return
        snapshots = [
            Snapshot(donor, weights_KN[donor].cpu().numpy(), NO_INTEGERS, NONE, NO_INTEGERS) for donor in donors
        ]
        self._num_exchanges += 1
        for name, value in receive_aligned(self._rule, snapshots, self._alignment).items():
            self._sums[name] = self._sums.get(name, 0.0) + value
