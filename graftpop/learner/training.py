"""One peer's own training: epochs of SGD, evaluation, and the state that a checkpoint keeps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.learner.data.images import Images
from graftpop.learner.flat import FlatState
from graftpop.learner.precision import training_dtype
from graftpop.learner.schedules import SCHEDULES
from graftpop.learner.seeds import derive, seeded
from graftpop.settings import TrainingSettings

__all__ = ["EpochMetrics", "Learner"]

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch of training gave: means over its images, the learning rate it began with, and its time."""

    loss: float
    accuracy: float
    lr: float
    num_images: int
    train_s: float


class Learner:
    """A network, its optimizer and its place in the training.

    Data order, augmentation and dropout of an epoch are functions of (seed, peer, epoch); the schedule is a function
    of the epoch. The state to keep is therefore the weights, the momentum and the number of epochs trained.

    Attributes:
        network: the module that is trained; its tensors are views of `state.buffer`.
        state: the network's tensors as one buffer.
        epoch: epochs trained so far.
    """

    def __init__(
        self, network: nn.Module, train: Images, settings: TrainingSettings, *,
        lr: float, seed: int, peer: int, device: torch.device,
    ) -> None:
        self.network = network.to(device)
        self.state = FlatState(self.network)
        self.epoch = 0
        self._train_images = train
        self._settings = settings
        self._schedule = SCHEDULES[settings.schedule]
        self._lr, self._seed, self._peer, self._device = lr, seed, peer, device
        self._dtype = training_dtype(settings.precision, device)
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay,
            fused=True)

    def train_epoch(self) -> EpochMetrics:
        """Train on every image once and return what it gave. The host waits for the device once, at the end."""
        start = time.perf_counter()
        images, settings = self._train_images, self._settings
        num_batches = -(-images.num_images // settings.batch_size)
        loss_sum = torch.zeros((), device=self._device)
        num_correct = torch.zeros((), dtype=torch.int64, device=self._device)
        num_images = 0
        self.network.train()
        order_seed = derive(self._seed, "data", self._peer, self.epoch)
        with seeded(derive(self._seed, "dropout", self._peer, self.epoch), self._device):
            for batch, (pixels, labels) in enumerate(
                    images.training_batches(settings.batch_size, order_seed, self._device)):
                self._set_learning_rate(self.epoch + batch / num_batches)
                with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                    logits = self.network(pixels)
                loss = F.cross_entropy(logits.float(), labels)
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
                loss_sum += loss.detach() * len(labels)
                num_correct += torch.count_nonzero(logits.detach().argmax(1) == labels)
                num_images += len(labels)
        lr = self._lr * self._schedule(self.epoch, settings.epochs)
        self.epoch += 1
        return EpochMetrics(float(loss_sum) / num_images, int(num_correct) / num_images, lr, num_images,
                            time.perf_counter() - start)

    def _set_learning_rate(self, epochs_done: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * self._schedule(epochs_done, self._settings.epochs)

    @torch.no_grad()
    def evaluate(self, images: Images) -> tuple[Tensor, Tensor]:
        """Return logits (N, C) and labels (N,) of a split, on the CPU.

        In float32 whatever the precision of training, so that the figures hold for the exported weights.
        """
        self.network.eval()
        logits, labels = zip(*((self.network(pixels), labels) for pixels, labels in
                               images.evaluation_batches(EVALUATION_BATCH, self._device)), strict=True)
        return torch.cat(logits).float().cpu(), torch.cat(labels).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed learner needs: the network, the momentum and the epoch."""
        tensors = {f"network/{name}": tensor.detach() for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{name}"] = momentum
        tensors["epoch"] = torch.tensor(self.epoch)
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            CheckpointError: the state is another network's.
        """
        prefix = "network/"
        network = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            epoch = int(tensors["epoch"])
            self.network.load_state_dict(network)
        except KeyError as error:
            raise CheckpointError("checkpoint: not one of a peer: it has no epoch") from error
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"checkpoint: not one of this network: {reason}") from error
        self._optimizer.state.clear()
        for name, parameter in self.network.named_parameters():
            if (momentum := tensors.get(f"momentum/{name}")) is not None:
                buffer = torch.empty_like(parameter).copy_(momentum)
                self._optimizer.state[parameter]["momentum_buffer"] = buffer
        self.epoch = epoch
