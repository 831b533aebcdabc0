"""The training of one network: epochs of gradient descent, evaluation, and the state for a checkpoint."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from graftpop.data.batch_reader import count_training_batches
from graftpop.data.images import Images
from graftpop.errors import CheckpointError
from graftpop.models.module_check import without_ties
from graftpop.seeds import derive, seeded
from graftpop.settings import TrainingSettings
from graftpop.tasks.task import Outputs, Task
from graftpop.training.collective import run_alone
from graftpop.training.convolutions import speed_up_convolutions_
from graftpop.training.cuda import set_up_cuda
from graftpop.training.epoch import EpochMetrics, LossTerm, MutualTerm, Steps, WeightExchange
from graftpop.training.flat_state import FlatState
from graftpop.training.named_optimizers import named_optimizer
from graftpop.training.optimizers import MakeOptimizer, Optimizer, TorchOptimizer
from graftpop.training.outputs import in_float32, joined
from graftpop.training.precision import training_dtype
from graftpop.training.recalibration import recalibrate

__all__ = ["Learner"]

EVALUATION_BATCH: Final = {"cpu": 64, "cuda": 1000}
"""Batch size of evaluation by device; on a CPU, the activations of a small batch stay in the cache."""


class Learner:
    """Trains and evaluates one network.

    Data order, augmentation and dropout of an epoch are functions of (seed, peer, epoch); the learning rate is a
    function of the epoch. A checkpoint therefore needs only the weights, the optimizer state and the epoch.

    Args:
        network: the network to train.
        train: the training images.
        settings: batch size, optimizer and precision.
        task: loss and predictions.
        lr: maps the epochs trained so far, fractional within an epoch, to the learning rate.
        seed: the study's seed.
        peer: index of the peer, or a teacher's name; seeds dropout and, without `data_peer`, data order.
        device: device of the training.
        data_peer: peer whose data order is followed; None for the peer's own order.
        peak_epoch: epochs after which `lr` is highest, the reference of `lr_ratio`.
        make_optimizer: returns the optimizer; None for the one that the settings name.

    Attributes:
        network: the network; its tensors are views of `state.buffer`.
        state: the network's tensors as one buffer.
        epoch: epochs trained so far.
        loss_terms: terms added to the task's loss at every step.
        mutual_term: a further term, from the logits of all peers; None if there is none.
        weight_exchange: exchanges weights within an epoch; None if there are no such exchanges.
        before_step: called before every optimizer step, with the gradients in place; a parameter whose gradient it sets
            to None stays as it is.
        after_step: called after every optimizer step and the exchange that follows it.
        sync_epochs: number of epochs in which all peers average their gradients.
    """

    def __init__(  # ten parameters: everything that differs between peers, methods and devices
        self,
        network: nn.Module,
        train: Images,
        settings: TrainingSettings,
        task: Task,
        *,
        lr: Callable[[float], float],
        seed: int,
        peer: int | str,
        device: torch.device,
        data_peer: int | str | None = None,
        peak_epoch: float = 0.0,
        make_optimizer: MakeOptimizer | None = None,
    ) -> None:
        if device.type == "cuda":
            set_up_cuda(deterministic=settings.deterministic)
        self.network = network.to(device)
        self.state = FlatState(self.network)
        self.epoch = self._step_of_epoch = 0
        self.loss_terms: list[LossTerm] = []
        self.mutual_term: MutualTerm | None = None
        self.weight_exchange: WeightExchange | None = None
        self.before_step: list[Callable[[], None]] = []
        self.after_step: list[Callable[[], None]] = []
        self.sync_epochs = 0
        self._train_images = train
        self._settings, self._task = settings, task
        self._lr, self._peak_epoch = lr, peak_epoch
        self._seed, self._peer, self._device = seed, peer, device
        self._data_peer = peer if data_peer is None else data_peer
        self._dtype = training_dtype(settings.precision, device)
        if device.type == "cpu":
            speed_up_convolutions_(self.network)
        self._parameters = dict(self.network.named_parameters())
        self._masks: list[tuple[nn.Parameter, Tensor]] = []
        self._optimizer: Optimizer = (
            named_optimizer(self.network, settings, lr(peak_epoch))
            if make_optimizer is None
            else TorchOptimizer(self._parameters, make_optimizer)
        )

    def train_epoch(self) -> EpochMetrics:
        """Train on every image once, without other peers, and return the epoch's metrics.

        The host waits for the device once, at the end.

        Raises:
            RuntimeError: the learner exchanges logits or weights within an epoch.
        """
        return run_alone(
            self.epoch_steps(), "Learner.train_epoch: exchanges within an epoch need all peers; use epoch_steps"
        )

    def epoch_steps(self) -> Steps:
        """Train on every image once; yield the tensors that the peers exchange meanwhile, see `Steps`.

        Raises:
            ModelError: the network has replaced its tensors.
        """
        try:
            return (yield from self._epoch_steps())
        finally:
            self.state.check_kept(self.network)

    def _epoch_steps(self) -> Steps:
        start = time.perf_counter()
        images, batch_size = self._train_images, self._settings.batch_size
        num_batches = self.num_batches
        loss_sum = torch.zeros((), device=self._device)
        num_correct: Tensor | None = None
        num_images, waiting, self._step_of_epoch = 0, 0, 0
        self.network.train()
        order_seed = derive(self._seed, "data", self._data_peer, self.epoch)
        batches = images.training_batches(batch_size, order_seed, self._device)
        accumulate = self._settings.accumulate
        for batch, (inputs, targets) in enumerate(batches):
            if not waiting:
                self._optimizer.lr = self._lr(self.epoch + batch / num_batches)
                self._optimizer.zero_grad()
            # seeded per batch, because other peers of this process may use torch's generators between two batches
            with (
                seeded(derive(self._seed, "dropout", self._peer, self.epoch, batch), self._device),
                torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32),
            ):
                outputs = self._task.forward(self.network, inputs)
            outputs = in_float32(outputs)
            task_loss = self._task.loss(outputs, targets)
            loss = task_loss
            logits = self._logits(outputs) if self.loss_terms or self.mutual_term is not None else torch.empty(0)
            for term in self.loss_terms:
                loss = loss + term(logits, inputs)
            if self.mutual_term is not None:
                all_logits = yield logits.detach()
                loss = loss + self.mutual_term(logits, all_logits)
            (loss if accumulate == 1 else loss * len(targets)).backward()
            waiting += len(targets)
            if (batch + 1) % accumulate == 0:
                yield from self._step(waiting)
                waiting = 0
            loss_sum += task_loss.detach() * len(targets)
            num_images += len(targets)
            with torch.no_grad():
                correct = self._task.num_correct(outputs, targets)
            if correct is not None:
                num_correct = correct if num_correct is None else num_correct + correct
        if waiting:
            yield from self._step(waiting)
        lr = self._lr(self.epoch)
        self.epoch, self._step_of_epoch = self.epoch + 1, 0
        accuracy = None if num_correct is None else int(num_correct) / num_images
        return EpochMetrics(float(loss_sum) / num_images, accuracy, lr, num_images, time.perf_counter() - start)

    def _step(self, num_images: int) -> Generator[Tensor, Tensor, None]:
        """Update the weights by the gradients of some images; yield these to average them, and weights to exchange."""
        if self._settings.accumulate > 1:  # the gradients are sums over the images
            torch._foreach_div_(
                [weight.grad for weight in self._parameters.values() if weight.grad is not None], num_images
            )
        if self.epoch < self.sync_epochs:
            yield from self._average_gradients()
        for act in self.before_step:
            act()
        self._apply_masks()
        if self._settings.clip_grad_norm is not None:
            clip_grad_norm_(self._parameters.values(), self._settings.clip_grad_norm)
        self.state.check_shapes()
        self._optimizer.step()
        self._step_of_epoch += 1
        if self.weight_exchange is not None and self.weight_exchange.follows(self.num_steps()):
            self.weight_exchange((yield self.state.buffer), self.num_steps())
        for act in self.after_step:
            act()

    def _average_gradients(self) -> Generator[Tensor, Tensor, None]:
        """Replace the gradients by the mean of all peers'; a missing one counts as 0, if not missing everywhere."""
        weights = [weight for weight in self._parameters.values() if weight.requires_grad]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        lacking = [index for index, weight in enumerate(weights) if weight.grad is None]
        has_gradient = torch.ones(len(weights), device=self._device)
        has_gradient[lacking] = 0
        mean = (yield torch.cat([*(gradient.flatten() for gradient in gradients), has_gradient])).mean(0)
        *parts, shares = mean.split([*(weight.numel() for weight in weights), len(weights)])
        unused = {index for index in lacking if not shares[index]}  # an optimizer would decay a weight with gradient 0
        for index, (weight, gradient, part) in enumerate(zip(weights, gradients, parts, strict=True)):
            if index not in unused:
                weight.grad = gradient.copy_(part.view(weight.shape))

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return count_training_batches(self._train_images.num_images, self._settings.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.num_batches // self._settings.accumulate)

    def num_steps(self) -> int:
        """Return the optimizer steps trained so far."""
        return self.epoch * self.steps_per_epoch + self._step_of_epoch

    def lr_ratio(self) -> float:
        """Return the learning rate of the last step divided by the one at the peak, by default the initial one."""
        return self._optimizer.lr / self._lr(self._peak_epoch)

    def momentum(self, name: str) -> Tensor | None:
        """Return the momentum of a parameter, writable in place, or None before its first step."""
        return self._optimizer.momentum(name)

    def mask_gradients(self, masks: Mapping[str, Tensor]) -> None:
        """Multiply the gradients of some parameters by masks in all further steps; any earlier masks are replaced.

        Weights of zero with zero momentum then stay zero, whatever momentum and weight decay are.

        Args:
            masks: 0 for weights without gradient and 1 elsewhere, broadcastable over the parameter; by its name.
        """
        self._masks = [(self._parameters[name], mask.to(self.state.buffer)) for name, mask in masks.items()]

    def _apply_masks(self) -> None:
        masked = [(parameter.grad, mask) for parameter, mask in self._masks if parameter.grad is not None]
        if masked:
            torch._foreach_mul_([gradient for gradient, _ in masked], [mask for _, mask in masked])

    def continue_at(self, epoch: int) -> None:
        """Continue at another epoch without momentum, after the weights were replaced from outside."""
        self._optimizer.reset()
        self.epoch, self._step_of_epoch = epoch, 0

    def recalibrate(self) -> None:
        """Recompute the running statistics of normalizations over the training images; see `recalibration.py`."""
        order_seed = derive(self._seed, "recalibration", self._data_peer)
        batches = self._train_images.training_batches(self._settings.batch_size, order_seed, self._device)
        with seeded(derive(self._seed, "recalibration dropout", self._peer), self._device):
            recalibrate(self.network, self._task, batches)

    def losses(self, num_batches: int, seed: int) -> Iterator[Tensor]:
        """Yield the task's loss of some batches of training images, in evaluation mode; the network stays as it is.

        Args:
            num_batches: number of batches; fewer if an epoch has fewer.
            seed: seeds their order and augmentation.
        """
        for inputs, targets in islice(self._batches(seed), num_batches):
            yield self._task.loss(self._evaluated(inputs), targets)

    def sample(self, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return a few training images and their targets, at most a batch.

        Args:
            num_images: number of images.
            seed: seeds their choice and augmentation.
        """
        inputs, targets = next(iter(self._batches(seed)))
        return inputs[:num_images], targets[:num_images]

    def log_likelihoods(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the log-likelihood of each image's label, (B,), in evaluation mode; of mixed labels its mean.

        Args:
            inputs: images, (B, ...).
            targets: classes or identities (B,), or shares of classes (B, C).
        """
        log_probabilities = self._logits(self._evaluated(inputs)).log_softmax(1)
        if targets.dim() == 2 and targets.is_floating_point():
            return (targets * log_probabilities).sum(1)
        return log_probabilities.gather(1, targets[:, None].long())[:, 0]

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._train_images.training_batches(self._settings.batch_size, seed, self._device))

    def _evaluated(self, inputs: Tensor) -> Outputs:
        """Return the task's outputs in evaluation mode, in float32."""
        self.network.eval()
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            return in_float32(self._task.forward(self.network, inputs))

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return self._train_images.num_images

    @torch.no_grad()
    def evaluate(self, images: Images, *, exact: bool = True) -> tuple[Outputs, Tensor]:
        """Return the task's outputs for a split, in float32, and its targets (N, ...), on the CPU.

        Args:
            images: images of the split.
            exact: compute in float32, as the exported network does; otherwise in the faster precision of training.
        """
        self.network.eval()
        batches = images.evaluation_batches(EVALUATION_BATCH[self._device.type], self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=not exact and self._dtype != torch.float32):
            outputs, targets = zip(
                *((self._task.infer(self.network, inputs), targets) for inputs, targets in batches), strict=True
            )
        return in_float32(joined(outputs)), torch.cat(targets).cpu()

    def _logits(self, outputs: Outputs) -> Tensor:
        logits = self._task.logits(outputs)
        assert logits is not None, "the settings refuse what needs logits without them"
        return logits

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed learner needs: the network, the optimizer state and the epoch."""
        tensors = {f"network/{name}": tensor.detach() for name, tensor in self.network.state_dict().items()}
        tensors |= self._optimizer.state_dict()
        tensors["epoch"] = torch.tensor(self.epoch)
        return without_ties(tensors)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned.

        Raises:
            CheckpointError: the state belongs to another network, or has no valid epoch.
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
        self.epoch, self._step_of_epoch = int(epoch), 0
