"""A callback of Hugging Face's Trainer that grafts networks of separate trainings."""

from typing import Any

from transformers import TrainerCallback

from graftpop.integrations.shared_folder import SharedFolder, check_one_process

__all__ = ["GraftCallback"]


class GraftCallback(TrainerCallback):
    """Grafts a model with another training's before every epoch but the first; see `SharedFolder`.

    Evaluations and checkpoints at the end of an epoch are those of ungrafted weights.

    Args:
        shared: the folder, and the names in it.
    """

    def __init__(self, shared: SharedFolder) -> None:
        self._shared = shared

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the training runs in one process."""
        del state, control, kwargs
        check_one_process(args.world_size)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Graft the model."""
        del args, state, control, kwargs
        self._shared.graft(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Share the model's weights."""
        del args, control, kwargs
        self._shared.publish(model, round(state.epoch))
