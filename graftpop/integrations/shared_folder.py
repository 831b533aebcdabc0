"""Grafting of networks that train in separate processes, by files of weights in a folder that all can access."""

import logging
import os
import re
import time
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graftpop.errors import SpaceError, one_line
from graftpop.exchange.state_dicts import graft_state_dicts
from graftpop.models.module_check import distinct_state
from graftpop.ops.alpha import adaptive_alpha

__all__ = ["SharedFolder", "check_one_process"]

logger = logging.getLogger("graftpop")

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
POLL_S: Final = 0.2


class SharedFolder:
    """Grafts a network with the weights that another training publishes in a folder.

    `publish` writes the weights after an epoch, and `graft` blends them with the donor's before the next one:

        shared = SharedFolder("shared", "a", donor="b")
        for epoch in range(num_epochs):
            shared.graft(network)
            train(network)
            shared.publish(network, epoch)

    Nothing is grafted before the first epoch and after the last one. Optimizer state and integer buffers do not change.
    A donor that is absent or late is no error: the training continues, and grafts when the donor has published new
    weights.

    Args:
        folder: folder of the weights, empty at first; it is created if it is absent.
        name: name of this training, for its file `NAME.safetensors`: letters, digits, '.', '_' and '-'.
        donor: name of the training that gives its weights, of a network of the same architecture.
        A: width of the interval of alpha around 1/2, see `graftpop.graft`.
        c: steepness of alpha.
        wait_s: seconds to wait for a donor that has completed fewer epochs. After a wait that timed out there is no
            other until the donor publishes.

    Raises:
        SpaceError: a name is not usable.
        ValueError: A or c is outside its range.
    """

    def __init__(
        self, folder: str | Path, name: str, donor: str, *, A: float = 0.4, c: float = 500.0, wait_s: float = 60.0
    ) -> None:
        for key, value in (("name", name), ("donor", donor)):
            if not NAME.fullmatch(value):
                raise SpaceError(
                    f"{key}: must be letters, digits, '.', '_' and '-', got '{value}'; rename the training"
                )
        if name == donor:
            raise SpaceError(f"donor: must be another training, got '{donor}' for itself; name the other one")
        adaptive_alpha(torch.zeros(1), torch.zeros(1), A=A, c=c)  # raises ValueError now, not after an epoch
        self._folder, self._name, self._donor = Path(folder), name, donor
        self._A, self._c, self._wait_s = A, c, wait_s
        self._epoch: int | None = None  # of the published weights that are not grafted yet
        self._used: int | None = None  # the donor's epoch at the last graft
        self._late: int | None = -1  # the donor's epoch when a wait timed out

    def publish(self, network: nn.Module, epoch: int) -> None:
        """Write a network's weights for others; a failure is logged.

        Args:
            network: network of this training.
            epoch: the completed epoch; all trainings must count alike.
        """
        weights = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in _tensors(network).items()}
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            logger.warning("%s: weights after epoch %d are not finite, so they are not shared", self._name, epoch)
            return
        partial = self._folder / f".{self._name}-{os.getpid()}.partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, partial, metadata={"epoch": str(epoch)})
            os.replace(partial, self._file(self._name))
        except (OSError, SafetensorError) as error:
            logger.warning("%s: weights after epoch %d are not shared: %s", self._name, epoch, one_line(error))
            return
        self._epoch = epoch

    def graft(self, network: nn.Module) -> int | None:
        """Blend the donor's newest weights into a network that has been published since the last call.

        Args:
            network: network of this training; changed in place.

        Returns:
            The donor's epoch; None if nothing was grafted.

        Raises:
            ModelError: the donor's network has another architecture.
        """
        epoch, self._epoch = self._epoch, None
        if epoch is None:
            return None
        self._await_donor(epoch)
        found, weights = self._read()
        if found is None or found == self._used:
            return None
        own = _tensors(network)
        theirs = {name: tensor.to(own[name].device) if name in own else tensor for name, tensor in weights.items()}
        for name, blended in graft_state_dicts(own, theirs, A=self._A, c=self._c).items():
            own[name].copy_(blended)
        self._used = found
        logger.info("%s: grafted after epoch %d with %s after epoch %d", self._name, epoch, self._donor, found)
        return found

    def _await_donor(self, epoch: int) -> None:
        found, deadline = self._read(only_epoch=True)[0], time.monotonic() + self._wait_s
        if found == self._late:
            return
        while (is_late := found is None or found < epoch) and time.monotonic() < deadline:
            time.sleep(POLL_S)
            found = self._read(only_epoch=True)[0]
        if is_late:
            self._late = found

    def _read(self, *, only_epoch: bool = False) -> tuple[int | None, dict[str, Tensor]]:
        """Return the donor's epoch and weights; None and nothing if it has published none that can be read."""
        try:
            with safe_open(self._file(self._donor), "pt") as file:
                epoch = int(file.metadata()["epoch"])
                return epoch, {} if only_epoch else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None, {}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            if not only_epoch:  # a wait repeats that reading, and would repeat the warning
                logger.warning("%s: weights of %s cannot be read: %s", self._name, self._donor, one_line(error))
            return None, {}

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def check_one_process(num_processes: int) -> None:
    """Raise a SpaceError if a training runs in several processes, because each would graft on its own."""
    if num_processes != 1:
        raise SpaceError(f"GraftCallback: needs a training in one process, got {num_processes}; use one device")


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state in its order, tied ones once."""
    return {name: tensor.detach() for name, tensor in distinct_state(network) if isinstance(tensor, Tensor)}
