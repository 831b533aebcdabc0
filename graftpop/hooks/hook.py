"""The interface of hooks, which act on a network between its epochs.

A hook runs before every epoch but the first, after the previous round's exchange. It runs once more after the last
epoch, before the network is evaluated. Its state between two calls is part of the checkpoint.
"""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Hook"]


class Hook:
    """A hook that does nothing and has no state; subclasses override the methods that they need.

    Attributes:
        name: name of the hook, unique within a peer; the key of its state in a checkpoint.
    """

    name = ""

    def before_epoch(self, epoch: int) -> None:
        """Act on the network before an epoch.

        Args:
            epoch: epochs trained so far, at least 1.
        """

    def restart(self) -> None:
        """Discard the results of earlier steps, after the weights were replaced from outside."""

    def finish(self) -> None:
        """Act on the network after the last epoch."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that a resumed hook needs besides the network and the epoch."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
