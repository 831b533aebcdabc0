"""The competent baseline: the training loop that an experienced user of torch and torchvision writes today.

It has graftpop's networks, images, batch size and precision: channels-last, autocast where the hardware computes in
bfloat16, fused SGD, no `.item()` within an epoch, loss and accuracy at its end. The data set is one tensor in memory
and the transforms are torchvision's v2 on whole batches, which are faster than a DataLoader of single images. They draw
one crop and one mirror image for a whole batch, where graftpop draws for each image; this favors the baseline. Freed
memory is kept, as torch's tuning guide advises. On a GPU the images are in its memory and cuDNN selects the fastest
algorithms.

`CompetentPeers` starts such processes, like `plain.PlainPeers`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plain import MEAN, STD, PlainPeers, answer_requests, arguments_of_peer

from graftpop.cluster.malloc import keep_freed_memory

if TYPE_CHECKING:
    import torch

__all__ = ["CompetentPeer", "CompetentPeers"]


class CompetentPeers(PlainPeers):
    """The processes of a population that trains by this loop; they answer `train` alone."""

    program = Path(__file__)


class CompetentPeer:
    """One process of the competent baseline.

    Attributes:
        network: the network that it trains.
        optimizer: its optimizer.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        import torch
        from torch import nn

        from graftpop.models import build
        from graftpop.training.precision import training_dtype

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(given.peer)
        self._dtype = training_dtype("auto", self._device)
        self.network = build(given.model, 10).to(self._device).to(memory_format=torch.channels_last)
        self._criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
        self._batches = endless_batches(given.batch, self._device)

    def train(self, num_batches: int) -> tuple[float, float]:
        """Train on `num_batches` batches, and return the mean loss and the accuracy."""
        import torch

        self.network.train()
        loss_sum, accuracy_sum = (torch.zeros((), device=self._device) for _ in range(2))
        for _ in range(num_batches):
            images, targets = next(self._batches)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                outputs = self.network(images)
                loss = self._criterion(outputs, targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach()
            accuracy_sum += (outputs.detach().argmax(1) == targets).float().mean()
        return float(loss_sum) / num_batches, float(accuracy_sum) / num_batches


def endless_batches(batch_size: int, device: "torch.device") -> Iterator[tuple[Any, Any]]:
    """Yield batches of CIFAR-10's training images without end, shuffled and augmented."""
    import torch
    from torchvision.transforms import v2

    from graftpop.data.cache import decoded
    from graftpop.data.cifar import find_cifar10
    from graftpop.settings import DataSettings

    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    pixels, labels = (
        tensor.to(device) for tensor in decoded(find_cifar10(DataSettings(name="cifar10"))).parts["train"]
    )
    while True:
        order = torch.randperm(len(labels), device=device)
        for rows in order[: len(order) // batch_size * batch_size].split(batch_size):
            yield transform(pixels[rows]).contiguous(memory_format=torch.channels_last), labels[rows]


def main() -> None:
    keep_freed_memory()
    peer = CompetentPeer(arguments_of_peer())
    answer_requests(train=peer.train)


if __name__ == "__main__":
    main()
