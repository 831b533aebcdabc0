"""The plain recipe, the baseline of the benchmarks: one process per network, each with its own data loader.

Written from the description of the released script of filter grafting (fxmeng/filter-grafting): PIL transforms in a
DataLoader with two workers, float32 in the default memory layout, `.item()` twice per batch, weights exchanged through
polled files, a layer's entropy in ten passes. Two differences favor the recipe. It polls every 0.1 s, where the script
sleeps for 10 s. Each process has its share of the cores; otherwise, the processes slow each other down.

`PlainPeers` starts such processes and pauses them, workers included, between requests.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["TEST_BATCH", "PlainPeers", "answer_requests", "arguments_of_peer"]

POLL_S = 0.1
TEST_BATCH = 100
NUM_WORKERS = 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
ANSWER_TIMEOUT_S = 120


class PlainPeers:
    """The processes of a population; each reads requests, one per line, and prints `done` after each.

    Args:
        model: name of the network.
        num_peers: number of processes.
        folder: folder for the exchange of weights.
        num_cores: number of cores that they share.
        batch: batch size.
    """

    program = Path(__file__)
    """The script of each process."""

    def __init__(self, model: str, num_peers: int, folder: Path, num_cores: int, batch: int = 128) -> None:
        threads = max(1, num_cores // num_peers)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).parents[1])}
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    str(self.program),
                    "--model",
                    model,
                    "--peer",
                    str(peer),
                    "--peers",
                    str(num_peers),
                    "--folder",
                    str(folder),
                    "--batch",
                    str(batch),
                ],
                env=environment,
                text=True,
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for peer in range(num_peers)
        ]
        self._answers()
        self._signal(signal.SIGSTOP)

    @property
    def process_ids(self) -> list[int]:
        """Process IDs."""
        return [process.pid for process in self._processes]

    def ask(self, what: str) -> float:
        """Send a request to all processes, and return the seconds until the last is done."""
        self._signal(signal.SIGCONT)
        start = time.perf_counter()
        for process in self._processes:
            assert process.stdin
            print(what, file=process.stdin, flush=True)
        self._answers()
        took_s = time.perf_counter() - start
        self._signal(signal.SIGSTOP)
        return took_s

    def close(self) -> None:
        """End all processes."""
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def _answers(self) -> None:
        for process in self._processes:
            assert process.stdout
            if process.stdout.readline() != "done\n":
                raise RuntimeError(f"{self.program.name}: a process ended with {process.wait(ANSWER_TIMEOUT_S)}")

    def _signal(self, number: int) -> None:
        for process in self._processes:
            os.killpg(process.pid, number)


class PlainPeer:
    """One process of the plain recipe."""

    def __init__(self, given: argparse.Namespace) -> None:
        import torch
        from torch import nn

        from graftpop.models import build

        self._given = given
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(given.peer)
        self._network = build(given.model, 10).to(self._device)
        self._criterion = nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self._epoch = 0

    def train(self, batches: Iterator[tuple[Any, Any]], num_batches: int) -> None:
        """Train on `num_batches` batches, with the running statistics of the script."""
        self._network.train()
        total_loss, correct, total = 0.0, 0, 0
        for _ in range(num_batches):
            images, targets = (tensor.to(self._device) for tensor in next(batches))
            self._optimizer.zero_grad()
            outputs = self._network(images)
            loss = self._criterion(outputs, targets)
            loss.backward()
            self._optimizer.step()
            total_loss += loss.item()
            predicted = outputs.max(1)[1]
            total += len(targets)
            correct += predicted.eq(targets).sum().item()

    def evaluate(self, batches: Iterator[tuple[Any, Any]], num_batches: int) -> None:
        """Evaluate `num_batches` batches of test images, as the script does."""
        import torch

        self._network.eval()
        total_loss, correct, total = 0.0, 0, 0
        with torch.no_grad():
            for _ in range(num_batches):
                images, targets = (tensor.to(self._device) for tensor in next(batches))
                outputs = self._network(images)
                total_loss += self._criterion(outputs, targets).item()
                total += len(targets)
                correct += outputs.max(1)[1].eq(targets).sum().item()

    def exchange(self) -> None:
        """Write the weights to a file, wait for the donor's file, and blend layer by layer."""
        import torch

        given = self._given
        file = given.folder / f"peer-{given.peer}-{self._epoch}.pt"
        torch.save({"net": self._network.state_dict()}, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
        donor = given.folder / f"peer-{(given.peer - 1) % given.peers}-{self._epoch}.pt"
        while not donor.exists():
            time.sleep(POLL_S)
        graft(self._network, torch.load(donor)["net"])
        self._epoch += 1


def graft(network: Any, donor: dict[str, Any], A: float = 0.4, c: float = 500.0) -> None:
    """Blend a donor's state into a network; each convolution sets the share for itself and the tensors after it."""
    blended = OrderedDict()
    share = 0.5
    for name, tensor in network.state_dict().items():
        if "conv" in name:
            share = round(A / math.pi * math.atan(c * (entropy(tensor) - entropy(donor[name]))) + 0.5, 2)
        blended[name] = tensor * share + donor[name] * (1 - share)
    network.load_state_dict(blended)


def entropy(values: Any, num_bins: int = 10) -> float:
    """Return a layer's entropy in nats, with one pass over the layer per bin."""
    import torch

    values = values.reshape(-1)
    width = (values.max() - values.min()) / num_bins
    total: Any = 0.0
    for place in range(num_bins):
        inside = (values >= values.min() + place * width) * (values < values.min() + (place + 1) * width)
        share = torch.sum(inside, dtype=torch.float) / len(values)
        if share != 0:
            total -= share * torch.log(share)
    return float(total)


def endless_batches(part: str, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yield batches of CIFAR-10 images without end; training images are shuffled and augmented."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from graftpop.data.cache import decoded
    from graftpop.data.cifar import find_cifar10
    from graftpop.settings import DataSettings

    augmented = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if part == "train" else []
    transform = transforms.Compose([*augmented, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    pixels, labels = decoded(find_cifar10(DataSettings(name="cifar10"))).parts[part]
    arrays, targets = pixels.permute(0, 2, 3, 1).numpy(), labels.tolist()

    class Cifar(torch.utils.data.Dataset[tuple[Any, int]]):
        def __len__(self) -> int:
            return len(targets)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(Image.fromarray(arrays[index])), targets[index]

    loader = torch.utils.data.DataLoader(
        Cifar(), batch_size=batch_size, shuffle=part == "train", num_workers=NUM_WORKERS, drop_last=True
    )
    while True:
        yield from loader


def arguments_of_peer() -> argparse.Namespace:
    """Return the arguments that `PlainPeers` gives to each process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", type=int, required=True)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    return parser.parse_args()


def answer_requests(**actions: Callable[..., Any]) -> None:
    """Call an action for each line of a name and whole numbers, and print `done` after it; also once at first."""
    print("done", flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        actions[name](*map(int, numbers))
        print("done", flush=True)


def main() -> None:
    given = arguments_of_peer()
    peer = PlainPeer(given)
    batches, tests = endless_batches("train", given.batch), endless_batches("test", TEST_BATCH)
    answer_requests(
        train=lambda number: peer.train(batches, number),
        evaluate=lambda number: peer.evaluate(tests, number),
        exchange=peer.exchange,
    )


if __name__ == "__main__":
    main()
