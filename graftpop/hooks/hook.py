"""What acts on a network between its epochs.

A rule is called before every epoch but the first, when the exchange of the round before is done, and once after the
last epoch, before the network is measured. What it remembers between two calls is its state, and in the checkpoint.
"""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Hook"]


class Hook:
    """A rule that does nothing and remembers nothing.

    Attributes:
        name: of the rule, unique in a peer; what its state stands under in a checkpoint.
    """

    name = ""

    def before_epoch(self, epoch: int) -> None:
        """Act on the network.

        Args:
            epoch: epochs trained so far, at least 1.
        """

    def finish(self) -> None:
        """Act on the network for the last time."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed rule needs besides the network and the epoch."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
