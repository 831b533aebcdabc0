"""The weights of the round with the best validation score, with which a peer can end."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from graftpop.training.flat_state import FlatState

__all__ = ["BestRound"]


class BestRound:
    """Keeps a copy of a network's weights as of its best round, the first one among equally good rounds.

    Args:
        state: the tensors of the network; integer buffers, which only count batches, are not kept.

    Attributes:
        name: key of its state in a checkpoint.
    """

    name = "best_round"

    def __init__(self, state: FlatState) -> None:
        self._state = state
        self._weights = torch.zeros_like(state.buffer)
        self._merit = -math.inf

    def consider(self, merit: float) -> None:
        """Keep the current weights if their score is better than any before.

        Args:
            merit: validation score, the larger the better.
        """
        if merit > self._merit:
            self._merit = merit
            self._weights.copy_(self._state.buffer)

    def restore_(self, merit: float) -> bool:
        """Give the network the kept weights if they are better than its current ones; return whether they are.

        Args:
            merit: validation score of the current weights.
        """
        is_better = self._merit > merit
        if is_better:
            self._state.buffer.copy_(self._weights)
        return is_better

    def state_dict(self) -> dict[str, Tensor]:
        """Return the kept weights and their score."""
        return {"weights": self._weights, "merit": torch.tensor(self._merit, dtype=torch.float64)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self._weights.copy_(tensors["weights"])
        self._merit = float(tensors["merit"])
