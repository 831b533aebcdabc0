"""A peer: a learner with its methods, and everything that a population asks of it.

What a peer hands out and takes in is numbers, bytes and numpy arrays, so that it does the same in this process and
as a Ray actor.
"""

import math
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from graftpop.errors import PeerDiverged
from graftpop.exchange.grafting import Grafting
from graftpop.hooks.build import make_hooks
from graftpop.losses.distillation import distillation_term
from graftpop.losses.mutual import mutual_term
from graftpop.losses.teachers import SnapshotTeachers, Teachers
from graftpop.models.flops import count_flops, count_parameters
from graftpop.ops.soups import greedy_soup, uniform_soup
from graftpop.peer.components import Components, named_components
from graftpop.peer.diagnostics import Diagnostics, compare_pair
from graftpop.peer.state import load_state, state_bytes
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.training.filters import site_filters
from graftpop.training.learner import EpochMetrics, Learner
from graftpop.training.lockstep import Collective, CollectiveCall, as_numpy_collective, run_alone
from graftpop.training.precision import training_dtype
from graftpop.training.removal import remove_dropped
from graftpop.training.schedules import learning_rate, peer_learning_rate
from graftpop.training.sites import find_sites
from graftpop.training.snapshot import Snapshot

__all__ = ["Peer"]


class Peer:
    """One network of a population, with its data, optimizer and random state.

    Args:
        settings: the population's.
        index: which peer this is, from 0.
        device: where it trains.
        num_workers: processes that read images from disk for it, where they do not fit into memory.
        parts: what it is made of; None: what the settings name.
    """

    def __init__(
        self, settings: Settings, index: int, device: str = "cpu", num_workers: int = 0, parts: Components | None = None
    ) -> None:
        self._settings = settings
        self._index = index
        self._device = torch.device(device)
        self._parts = parts or named_components(settings)
        splits = self._splits = self._parts.make_splits(num_workers)
        with seeded(derive(settings.seed, "initialisation", index), torch.device("cpu")):
            network = self._parts.make_network(len(splits.class_names))
        self._sites = find_sites(network, splits.image_shape, settings.model.name)
        self._learner = self._make_learner(network)
        filters = site_filters(self._learner, self._sites)
        self._grafting = Grafting(self._learner.state, self._sites, settings.graft)
        self._hooks = make_hooks(settings, self._learner, filters, index)
        self._diagnostics = Diagnostics(filters, settings.diagnostics)
        self._teachers = Teachers(settings, splits, self._device)
        self._classmates = SnapshotTeachers(network)
        self._add_loss_terms()
        self._small: nn.Module | None = None
        self._num_removed = 0
        self._entropies, self._num_invalid = self._grafting.entropies(), self._grafting.num_invalid_filters()
        self._predicted = torch.empty(0, dtype=torch.int64)
        self._teacher_images = 0
        self._epochs: list[EpochMetrics] = []  # of this round

    def _make_learner(self, network: nn.Module) -> Learner:
        settings = self._settings
        training, population = settings.training, settings.population
        lr = training.lr
        if population.diversity == "learning_rate":
            lr = peer_learning_rate(lr, self._index, population.num_peers)
        return Learner(
            network,
            self._splits.train,
            training,
            lr=learning_rate(lr, training.schedule, settings.num_epochs, settings.swa),
            seed=settings.seed,
            peer=self._index,
            device=self._device,
            data_peer=0 if settings.meets else None,
            make_optimizer=self._parts.make_optimizer,
        )

    def _add_loss_terms(self) -> None:
        dtype = training_dtype(self._settings.training.precision, self._device)
        distillation, mutual = self._settings.distillation, self._settings.mutual
        if distillation is not None:
            self._learner.loss_terms.append(
                distillation_term(
                    self._teachers.networks,
                    temperature=distillation.temperature,
                    weight=distillation.weight,
                    dtype=dtype,
                )
            )
        if mutual is not None and mutual.exchange == "snapshots":
            self._learner.loss_terms.append(
                distillation_term(
                    self._classmates.networks, temperature=mutual.temperature, weight=mutual.weight, dtype=dtype
                )
            )
        elif mutual is not None:
            self._learner.mutual_term = mutual_term(self._index, temperature=mutual.temperature, weight=mutual.weight)

    # --- a round ---

    def train(self, num_epochs: int) -> dict[str, Any] | Collective:
        """Train some epochs, measure on the validation split, and return the peer's row of the round's record.

        With logits exchanged at every batch it is a collective, whose result is the row.

        Raises:
            PeerDiverged: the loss or the weights are no longer finite.
        """
        collective = self._train(num_epochs)
        if self._learner.mutual_term is not None:
            return collective
        return run_alone(collective, f"peer {self._index}: meets with others, and has no mutual term")

    def _train(self, num_epochs: int) -> Collective:
        self._epochs.clear()
        for _ in range(num_epochs):
            yield from self._train_epoch()
        return self._measured()

    def _measured(self) -> dict[str, Any]:
        """Measure the network on the validation split, in the precision of training, and return the peer's row."""
        epochs = self._epochs
        if self._learner.epoch == self._settings.num_epochs:
            self._finish()
        logits, labels = self._learner.evaluate(self._splits.val, exactly=False)
        self._entropies, self._predicted = self._grafting.entropies(), logits.argmax(1)
        self._num_invalid = self._grafting.num_invalid_filters()
        train_images = sum(epoch.num_images for epoch in epochs)
        train_s = sum(epoch.train_s for epoch in epochs)
        teacher_images, self._teacher_images = self._teacher_images, 0
        return {
            "peer": self._index,
            "epoch": self._learner.epoch,
            "lr": epochs[-1].lr,
            "train_loss": epochs[-1].loss,
            "train_accuracy": epochs[-1].accuracy,
            "val_loss": float(F.cross_entropy(logits, labels)),
            "val_accuracy": _accuracy(self._predicted, labels),
            "num_invalid_filters": int(self._num_invalid.sum()),
            "mean_entropy_nats": float(self._entropies.mean()),
            "images_per_s": train_images / train_s,
            "train_s": train_s,
            "train_images": train_images + teacher_images,
            "diagnostics": self._diagnostics.measure(self._entropies),
        }

    def _finish(self) -> None:
        for hook in self._hooks:
            hook.finish()
        self._remove_dropped()

    def _remove_dropped(self) -> None:
        if self._settings.attenuation is not None and self._settings.attenuation.remove:
            self._small, self._num_removed = remove_dropped(
                self._learner.network, self._sites, self._splits.image_shape, self._settings.model.name
            )

    def _train_epoch(self) -> CollectiveCall[None]:
        if self._learner.epoch > 0:
            for hook in self._hooks:
                hook.before_epoch(self._learner.epoch)
        done = yield from as_numpy_collective(self._learner.epoch_steps(), self._device)
        self._epochs.append(done)
        if not (math.isfinite(done.loss) and self._learner.state.buffer.isfinite().all()):
            raise PeerDiverged(
                f"peer {self._index}: diverged in epoch {self._learner.epoch}, training loss "
                f"{done.loss:g} at a learning rate of {done.lr:g}; choose a lower training.lr"
            )

    def reseed(self, donor: Snapshot, num_epochs: int) -> dict[str, Any]:
        """Take a donor's weights, without momentum, in place of what diverged; return the row of the round.

        What is measured is the donor's, the training loss is that of the epoch that diverged.

        Args:
            donor: whose weights.
            num_epochs: of the round; those that were not trained are skipped.
        """
        self._grafting.copy_from_(donor)
        self._learner.skip_to(self._learner.epoch + num_epochs - len(self._epochs))
        return self._measured()

    def publish(self) -> Snapshot:
        """Return the weights, with the entropies and the predictions that the last round measured.

        To be copied before the peer goes on: its arrays are the weights themselves.
        """
        return self._grafting.publish(self._index, self._entropies, self._predicted)

    def graft(self, *donors: Snapshot) -> dict[str, list[Any]]:
        """Blend a donor's snapshot, or the mean of several, into the weights.

        Returns:
            The columns of the record, one value a site.
        """
        donor = self._grafting.merged(donors)
        alpha = self._grafting.alpha(self._entropies, donor)
        self._grafting.graft_(alpha, donor)
        after = self._grafting.num_invalid_filters()
        num_sites = len(self._grafting.site_names)
        return {
            "receiver": [self._index] * num_sites,
            "donor": [donor.peer] * num_sites,
            "site": list(self._grafting.site_names),
            "receiver_entropy_nats": self._entropies.tolist(),
            "donor_entropy_nats": donor.entropies.tolist(),
            "alpha": alpha[:num_sites].tolist(),
            "num_invalid_before": self._num_invalid.tolist(),
            "num_invalid_after": after.tolist(),
        }

    def compare(self, *snapshots: Snapshot) -> list[dict[str, Any]]:
        """Return the measures of some pairs of peers: of the first snapshot with each of the others."""
        own, *others = snapshots
        return [
            {"peer": own.peer, "other": other.peer, "diagnostic": measure, "value": value}
            for other in others
            for measure, value in compare_pair(own, other)
        ]

    # --- teachers ---

    def train_teachers(self, *indices: int) -> dict[int, bytes]:
        """Train some of the teachers, and return their states by index."""
        trained = {index: self._teachers.train(index) for index in indices}
        self._teacher_images += sum(num_images for _, num_images in trained.values())
        return {index: state for index, (state, _) in trained.items()}

    def set_teachers(self, *trained: dict[int, bytes]) -> None:
        """Learn from the teachers that some peers trained."""
        self._teachers.take({index: state for states in trained for index, state in states.items()})

    def set_snapshot_teachers(self, *classmates: Snapshot) -> None:
        """Learn from other peers as they are now."""
        self._classmates.take(classmates)

    # --- the end ---

    def predict(self, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the class probabilities (N, C) of the images of a split, `val` or `test`, and their labels (N,).

        Of the test set in float32, of the validation split as after every round.
        """
        images = {"val": self._splits.val, "test": self._splits.test}[split]
        logits, labels = self._learner.evaluate(images, exactly=split == "test")
        return logits.softmax(1).numpy(), labels.numpy()

    def ensemble_accuracy(self, *predictions: tuple[NDArray[np.float32], NDArray[np.int64]]) -> float:
        """Return the accuracy of the mean of some peers' class probabilities, each as `predict` returned it."""
        mean = sum(probability for probability, _ in predictions) / len(predictions)
        return float((np.asarray(mean).argmax(1) == predictions[0][1]).mean())

    def make_soup(self, kind: str, *snapshots: Snapshot) -> None:
        """Become the mean of some peers' weights, with BatchNorm statistics of its own.

        Args:
            kind: `uniform_soup`, all of them, or `greedy_soup`, those that do not make it worse.
            snapshots: of the peers, the most accurate first.
        """
        weights = [torch.tensor(snapshot.weights) for snapshot in snapshots]
        self._become(uniform_soup(weights) if kind == "uniform_soup" else greedy_soup(weights, self._val_accuracy_of))

    def _become(self, weights: Tensor) -> None:
        self._learner.state.buffer.copy_(weights)
        self._learner.recalibrate()

    def _val_accuracy_of(self, weights: Tensor) -> float:
        self._become(weights)
        logits, labels = self._learner.evaluate(self._splits.val, exactly=False)
        return _accuracy(logits.argmax(1), labels)

    def cost(self) -> dict[str, int]:
        """Return the network's parameters and FLOPs for one image, and where filters were removed, those left."""
        shape = self._splits.image_shape
        network = self._learner.network
        cost = {"parameters": count_parameters(network), "flops": count_flops(network, shape)}
        if self._small is not None:
            cost |= {
                "removed_filters": self._num_removed,
                "parameters_left": count_parameters(self._small),
                "flops_left": count_flops(self._small, shape),
            }
        return cost

    def process_id(self) -> int:
        """Return the number of the process that the peer runs in."""
        return os.getpid()

    def model_card(self) -> dict[str, Any]:
        """Return what is needed to rebuild the network and to feed it: name, classes, image shape, mean and std."""
        splits = self._splits
        card = {
            "model": self._settings.model.name,
            "num_classes": len(splits.class_names),
            "class_names": list(splits.class_names),
            "image_shape": list(splits.image_shape),
            "mean": list(splits.recipe.mean),
            "std": list(splits.recipe.std),
        }
        if self._small is not None:
            card["removed_filters"] = self._num_removed
        return card

    def save(self) -> bytes:
        """Return the peer's whole state; see `state_bytes`."""
        return state_bytes(self._learner, self._hooks, self._teacher_images, self._small, self.model_card())

    def load(self, state: bytes) -> None:
        """Go on from a state that `save` returned.

        Raises:
            CheckpointError: the bytes are cut short or another network's.
        """
        self._teacher_images = load_state(
            state, self._learner, self._hooks, f"checkpoint of peer {self._index}", self._settings.num_epochs
        )
        self._entropies, self._num_invalid = self._grafting.entropies(), self._grafting.num_invalid_filters()
        if self._learner.epoch == self._settings.num_epochs:
            self._remove_dropped()


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return int(torch.count_nonzero(predicted == labels)) / len(labels)
