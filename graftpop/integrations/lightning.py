"""A callback of PyTorch Lightning that grafts networks of separate trainings."""

from typing import Any

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    from pytorch_lightning import Callback

from graftpop.integrations.shared_folder import SharedFolder, check_one_process

__all__ = ["GraftCallback"]


class GraftCallback(Callback):
    """Grafts a LightningModule with another training's before every epoch but the first; see `SharedFolder`.

    Weights are shared after an epoch's validation, so checkpoints and metrics of an epoch are those of ungrafted
    weights.

    Args:
        shared: the folder, and the names in it.
    """

    def __init__(self, shared: SharedFolder) -> None:
        super().__init__()
        self._shared = shared

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that the training runs in one process."""
        del pl_module
        check_one_process(trainer.world_size)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Graft the network."""
        del trainer
        self._shared.graft(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Share the network's weights."""
        self._shared.publish(pl_module, trainer.current_epoch + 1)
