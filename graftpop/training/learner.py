"""One peer's own training: epochs of SGD, evaluation, and the state that a checkpoint keeps."""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from graftpop.data.images import Images
from graftpop.errors import CheckpointError
from graftpop.seeds import derive, seeded
from graftpop.settings import TrainingSettings
from graftpop.training.flat_state import FlatState
from graftpop.training.lockstep import run_alone
from graftpop.training.optimizers import MakeOptimizer, Optimizer, TorchOptimizer
from graftpop.training.precision import avoid_slow_kernels_, training_dtype
from graftpop.training.sgd import MomentumSGD

__all__ = ["EpochMetrics", "Learner", "LossTerm", "MutualTerm", "Steps"]

EVALUATION_BATCH: Final = {"cpu": 64, "cuda": 1000}
"""By device, images at a time where nothing is trained: on a CPU the activations of few stay in the cache."""


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch of training gave: means over its images, the learning rate it began with, and its time."""

    loss: float
    accuracy: float
    lr: float
    num_images: int
    train_s: float


LossTerm = Callable[[Tensor, Tensor], Tensor]
"""From a step's logits (B, C) in float32 and its images (B, 3, H, W), as the network saw them, to a scalar that is
added to the loss."""

MutualTerm = Callable[[Tensor, Tensor], Tensor]
"""The same from the logits and those of all peers, (K, B, C), on the same images."""

Steps = Generator[Tensor, Tensor, EpochMetrics]
"""An epoch that meets with others: it yields its logits of a batch and is sent those of all peers."""


class Learner:
    """A network, its optimizer and its place in the training.

    Data order, augmentation and dropout of an epoch are functions of (seed, peer, epoch); the learning rate is a
    function of the epoch. The state to keep is therefore the weights, the momentum and the number of epochs trained.

    Args:
        network: what is trained.
        train: the images.
        settings: of the training.
        lr: from the epochs trained so far, fractional within an epoch, to the learning rate.
        seed: the study's.
        peer: whose initialisation, dropout and data order these are.
        device: where it trains.
        data_peer: whose data order it follows, where that is another peer's.
        make_optimizer: makes its optimizer; None: SGD with the settings' momentum and weight decay.

    Attributes:
        network: the module that is trained; its tensors are views of `state.buffer`.
        state: the network's tensors as one buffer.
        epoch: epochs trained so far.
        loss_terms: added to the labels' cross-entropy at every step.
        mutual_term: the same, from the logits of all peers; None: the learner meets with nobody.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Images,
        settings: TrainingSettings,
        *,
        lr: Callable[[float], float],
        seed: int,
        peer: int | str,
        device: torch.device,
        data_peer: int | str | None = None,
        make_optimizer: MakeOptimizer | None = None,
    ) -> None:
        self.network = network.to(device)
        self.state = FlatState(self.network)
        self.epoch = 0
        self.loss_terms: list[LossTerm] = []
        self.mutual_term: MutualTerm | None = None
        self._train_images = train
        self._settings = settings
        self._lr, self._seed, self._peer, self._device = lr, seed, peer, device
        self._data_peer = peer if data_peer is None else data_peer
        self._dtype = training_dtype(settings.precision, device)
        if self._dtype == torch.bfloat16 and device.type == "cpu":
            avoid_slow_kernels_(self.network)
        self._parameters = dict(self.network.named_parameters())
        self._held: list[tuple[nn.Parameter, Tensor]] = []
        self._optimizer: Optimizer = (
            MomentumSGD(self._parameters, lr=lr(0.0), momentum=settings.momentum, weight_decay=settings.weight_decay)
            if make_optimizer is None
            else TorchOptimizer(self._parameters, make_optimizer)
        )

    def train_epoch(self) -> EpochMetrics:
        """Train on every image once, meeting with nobody, and return what it gave.

        The host waits for the device once, at the end.
        """
        return run_alone(
            self.epoch_steps(), "Learner.train_epoch: a learner with a mutual term meets with others; use epoch_steps"
        )

    def epoch_steps(self) -> Steps:
        """Train on every image once; with a mutual term, meet with the other peers at every batch."""
        start = time.perf_counter()
        images, batch_size = self._train_images, self._settings.batch_size
        num_batches = -(-images.num_images // batch_size)
        loss_sum = torch.zeros((), device=self._device)
        num_correct = torch.zeros((), dtype=torch.int64, device=self._device)
        num_images = 0
        self.network.train()
        order_seed = derive(self._seed, "data", self._data_peer, self.epoch)
        batches = images.training_batches(batch_size, order_seed, self._device)
        for batch, (pixels, labels) in enumerate(batches):
            self._optimizer.lr = self._lr(self.epoch + batch / num_batches)
            # by batch, since between two of them other peers of this process may draw from torch's generators too
            with (
                seeded(derive(self._seed, "dropout", self._peer, self.epoch, batch), self._device),
                torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32),
            ):
                logits = self.network(pixels)
            logits = logits.float()
            of_labels = F.cross_entropy(logits, labels)
            loss = of_labels
            for term in self.loss_terms:
                loss = loss + term(logits, pixels)
            if self.mutual_term is not None:
                everyone = yield logits.detach()
                loss = loss + self.mutual_term(logits, everyone)
            self._optimizer.zero_grad()
            loss.backward()
            self._hold_gradients()
            self._optimizer.step()
            loss_sum += of_labels.detach() * len(labels)
            num_correct += torch.count_nonzero(logits.detach().argmax(1) == labels)
            num_images += len(labels)
        lr = self._lr(self.epoch)
        self.epoch += 1
        return EpochMetrics(
            float(loss_sum) / num_images, int(num_correct) / num_images, lr, num_images, time.perf_counter() - start
        )

    def momentum(self, name: str) -> Tensor | None:
        """Return the momentum of a parameter, to read or to change; None before its first step."""
        return self._optimizer.momentum(name)

    def mask_gradients(self, masks: Mapping[str, Tensor]) -> None:
        """Let some parameters, or parts of them, receive no gradient from here on; what was held before is let go.

        What is held at zero, with zero momentum, is then changed by neither momentum nor weight decay.

        Args:
            masks: by parameter name, 0 where it is held and 1 elsewhere; a shape that broadcasts over it.
        """
        self._held = [(self._parameters[name], mask.to(self.state.buffer.dtype)) for name, mask in masks.items()]

    def _hold_gradients(self) -> None:
        held = [(parameter.grad, mask) for parameter, mask in self._held if parameter.grad is not None]
        if held:
            torch._foreach_mul_([gradient for gradient, _ in held], [mask for _, mask in held])

    def skip_to(self, epoch: int) -> None:
        """Go on at an epoch without momentum, with weights that came from elsewhere."""
        self._optimizer.forget()
        self.epoch = epoch

    def recalibrate(self) -> None:
        """Measure the statistics of every BatchNorm anew, as the mean over the training images' batches.

        Weights that were averaged need it: the average of the statistics is not what the average network gives.
        """
        order_seed = derive(self._seed, "recalibration", self._data_peer)
        batches = self._train_images.training_batches(self._settings.batch_size, order_seed, self._device)
        with seeded(derive(self._seed, "recalibration dropout", self._peer), self._device):
            update_bn((pixels for pixels, _ in batches), self.network)

    @torch.no_grad()
    def evaluate(self, images: Images, *, exactly: bool = True) -> tuple[Tensor, Tensor]:
        """Return logits (N, C) and labels (N,) of a split, on the CPU.

        Args:
            images: of the split.
            exactly: in float32, as the exported weights give them; else in the precision of training, which is faster.
        """
        self.network.eval()
        batches = images.evaluation_batches(EVALUATION_BATCH[self._device.type], self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=not exactly and self._dtype != torch.float32):
            logits, labels = zip(*((self.network(pixels), labels) for pixels, labels in batches), strict=True)
        return torch.cat(logits).float().cpu(), torch.cat(labels).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed learner needs: the network, the momentum and the epoch."""
        tensors = {f"network/{name}": tensor.detach() for name, tensor in self.network.state_dict().items()}
        tensors |= self._optimizer.state_dict()
        tensors["epoch"] = torch.tensor(self.epoch)
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            CheckpointError: the state is another network's.
        """
        prefix = "network/"
        network = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        epoch = tensors.get("epoch")
        if epoch is None or epoch.numel() != 1 or epoch.dtype != torch.int64:
            raise CheckpointError("checkpoint: not one of a peer: it has no epoch, which is one whole number")
        self._optimizer.load_state_dict(tensors)
        try:
            self.network.load_state_dict(network)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"checkpoint: not one of this network: {reason}") from error
        self.epoch = int(epoch)
