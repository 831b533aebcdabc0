"""A peer: a learner with its methods, and everything that a population asks of it.

What a peer hands out and takes in is numbers, bytes and numpy arrays, so that it does the same in this process and
as a Ray actor.
"""

import json
import math
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from graftpop.errors import CheckpointError, PeerError
from graftpop.learner.data import load_splits
from graftpop.learner.models import build
from graftpop.learner.schedules import peer_learning_rate
from graftpop.learner.seeds import derive, seeded
from graftpop.learner.sites import find_sites
from graftpop.learner.training import EpochMetrics, Learner
from graftpop.methods.grafting import Grafting, Snapshot
from graftpop.settings import Settings

__all__ = ["Peer"]


class Peer:
    """One network of a population, with its data, optimizer and random state.

    Args:
        settings: the population's.
        index: which peer this is, from 0.
        device: where it trains.
        num_workers: processes that read images from disk for it, where they do not fit into memory.
    """

    def __init__(self, settings: Settings, index: int, device: str = "cpu", num_workers: int = 0) -> None:
        self._settings = settings
        self._index = index
        torch_device = torch.device(device)
        splits = load_splits(settings.data, seed=settings.seed, num_workers=num_workers)
        self._val, self._test = splits.val, splits.test
        name = settings.model.name
        with seeded(derive(settings.seed, "initialisation", index), torch.device("cpu")):
            network = build(name, len(splits.class_names))
        sites = find_sites(network, splits.image_shape, name)
        lr = settings.training.lr
        if settings.population.diversity == "learning_rate":
            lr = peer_learning_rate(lr, index, settings.population.num_peers)
        self._learner = Learner(network, splits.train, settings.training, lr=lr, seed=settings.seed, peer=index,
                                device=torch_device)
        self._grafting = Grafting(self._learner.state, sites, settings.graft)
        self._entropies = self._grafting.entropies()
        self._model_card = {
            "model": name, "num_classes": len(splits.class_names), "class_names": list(splits.class_names),
            "image_shape": list(splits.image_shape), "mean": list(splits.recipe.mean), "std": list(splits.recipe.std),
        }

    def process_id(self) -> int:
        """Return the number of the process that the peer runs in."""
        return os.getpid()

    def model_card(self) -> dict[str, Any]:
        """Return what is needed to rebuild the network and to feed it: name, classes, image shape, mean and std."""
        return self._model_card

    def train(self, num_epochs: int) -> dict[str, Any]:
        """Train some epochs, measure on the validation split, and return the peer's row of the round's record.

        Raises:
            PeerError: the training diverged.
        """
        epochs = [self._train_epoch() for _ in range(num_epochs)]
        logits, labels = self._learner.evaluate(self._val)
        self._entropies = self._grafting.entropies()
        train_images = sum(epoch.num_images for epoch in epochs)
        train_s = sum(epoch.train_s for epoch in epochs)
        return {
            "peer": self._index,
            "epoch": self._learner.epoch,
            "lr": epochs[-1].lr,
            "train_loss": epochs[-1].loss,
            "train_accuracy": epochs[-1].accuracy,
            "val_loss": float(F.cross_entropy(logits, labels)),
            "val_accuracy": _accuracy(logits.argmax(1).numpy(), labels.numpy()),
            "num_invalid_filters": int(self._grafting.num_invalid_filters().sum()),
            "mean_entropy_nats": float(self._entropies.mean()),
            "images_per_s": train_images / train_s,
            "train_s": train_s,
            "train_images": train_images,
        }

    def _train_epoch(self) -> EpochMetrics:
        done = self._learner.train_epoch()
        if not (math.isfinite(done.loss) and self._learner.state.buffer.isfinite().all()):
            raise PeerError(f"peer {self._index}: diverged in epoch {self._learner.epoch}, training loss "
                            f"{done.loss:g} at a learning rate of {done.lr:g}; choose a lower training.lr")
        return done

    def publish(self) -> Snapshot:
        """Return a snapshot of the weights as the last training left them."""
        return self._grafting.publish(self._index, self._entropies)

    def graft(self, donor: Snapshot) -> dict[str, list[Any]]:
        """Blend a donor's snapshot into the weights; return the record's columns, one value a site."""
        theirs = torch.from_numpy(donor.entropies.copy()).to(self._entropies.device)
        alpha = self._grafting.alpha(self._entropies, theirs)
        before = self._grafting.num_invalid_filters()
        self._grafting.graft_(alpha, donor)
        after = self._grafting.num_invalid_filters()
        num_sites = len(self._grafting.site_names)
        return {
            "receiver": [self._index] * num_sites,
            "donor": [donor.peer] * num_sites,
            "site": list(self._grafting.site_names),
            "receiver_entropy_nats": self._entropies.tolist(),
            "donor_entropy_nats": theirs.tolist(),
            "alpha": alpha.tolist(),
            "num_invalid_before": before.tolist(),
            "num_invalid_after": after.tolist(),
        }

    def test(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the class probabilities (N, C) of the test images, and their labels (N,)."""
        logits, labels = self._learner.evaluate(self._test)
        return logits.softmax(1).numpy(), labels.numpy()

    def ensemble_accuracy(self, *tests: tuple[NDArray[np.float32], NDArray[np.int64]]) -> float:
        """Return the accuracy of the mean of some peers' class probabilities, each as `test` returned it."""
        mean = sum(probability for probability, _ in tests) / len(tests)
        return _accuracy(np.asarray(mean).argmax(1), tests[0][1])

    def save(self) -> bytes:
        """Return the peer's whole state in the safetensors format; its header holds the model card."""
        return tensors_to_bytes(self._learner.state_dict(), {"model_card": json.dumps(self._model_card)})

    def load(self, state: bytes) -> None:
        """Go on from a state that `save` returned.

        Raises:
            CheckpointError: the bytes are cut short or another network's.
        """
        try:
            tensors = tensors_from_bytes(state)
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint of peer {self._index}: cut short, or no safetensors file: "
                                  f"{error}") from error
        self._learner.load_state_dict(tensors)
        self._entropies = self._grafting.entropies()


def _accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    return float((predicted == labels).mean())
