"""A peer: a learner with its methods, and the calls that a population makes.

Arguments and results are numbers, bytes and numpy arrays, so a peer works the same in this process and as a Ray actor.
"""

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from graftpop.errors import PeerDiverged
from graftpop.exchange.grafting import Grafting
from graftpop.hooks.build import make_hooks
from graftpop.losses.teachers import SnapshotTeachers, Teachers
from graftpop.models.card import ModelCard
from graftpop.peer.components import Components, named_components
from graftpop.peer.diagnostics import Diagnostics, compare_pair
from graftpop.peer.final_network import FinalNetwork, accuracy
from graftpop.peer.learning import add_loss_terms, make_learner
from graftpop.peer.state import load_state, state_bytes
from graftpop.rows import DiagnosticRow, GraftColumns, PeerRow, TrialRow
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.training.collective import CollectiveCall, as_numpy_collective, run_alone
from graftpop.training.filters import site_filters
from graftpop.training.learner import EpochMetrics
from graftpop.training.sites import find_sites
from graftpop.training.snapshot import Snapshot

__all__ = ["Peer"]


class Peer:
    """One network of a population, with its data, optimizer and random state.

    Args:
        settings: the population's settings.
        index: index of the peer, from 0.
        device: torch device of the training, such as `cuda`.
        num_workers: processes that read its images from disk, if they do not fit in memory.
        components: the peer's network, images and optimizer; None: as the settings name them.
    """

    def __init__(
        self,
        settings: Settings,
        index: int,
        device: str = "cpu",
        num_workers: int = 0,
        components: Components | None = None,
    ) -> None:
        self._settings = settings
        self._index = index
        self._device = torch.device(device)
        components = components or named_components(settings)
        splits = self._splits = components.make_splits(num_workers)
        with seeded(derive(settings.seed, "initialisation", index), torch.device("cpu")):
            network = components.make_network(len(splits.class_names))
        sites = find_sites(network, splits.image_shape, settings.model.name, settings.method_on_sites)
        self._learner = make_learner(settings, index, network, splits, self._device, components)
        filters = site_filters(self._learner, sites)
        self._grafting = Grafting(self._learner.state, sites, settings.graft)
        self._hooks = make_hooks(settings, self._learner, filters, index)
        self._diagnostics = Diagnostics(filters, settings.diagnostics)
        self._teachers = Teachers(settings, splits, self._device)
        self._snapshot_teachers = SnapshotTeachers(network)
        add_loss_terms(self._learner, settings, index, self._teachers, self._snapshot_teachers)
        self._final = FinalNetwork(self._learner, sites, splits, settings)
        self._entropies, self._num_invalid = self._grafting.entropies(), self._grafting.num_invalid_filters()
        self._predicted = torch.empty(0, dtype=torch.int64)
        self._teacher_images = 0
        self._epochs: list[EpochMetrics] = []  # of this round

    # --- a round ---

    def train(self, num_epochs: int) -> PeerRow | CollectiveCall[PeerRow]:
        """Train some epochs, evaluate on the validation split, and return the peer's row of `rounds.parquet`.

        With logits exchanged at every batch this returns a collective, whose result is the row.

        Raises:
            PeerDiverged: the loss or the weights are no longer finite.
        """
        collective = self._train(num_epochs)
        if self._learner.mutual_term is not None:
            return collective
        return run_alone(collective, f"peer {self._index}: trains with a collective, but has no mutual term")

    def _train(self, num_epochs: int) -> CollectiveCall[PeerRow]:
        self._epochs.clear()
        for _ in range(num_epochs):
            yield from self._train_epoch()
        return self._measured()

    def _measured(self) -> PeerRow:
        """Evaluate the network on the validation split, in the training precision, and return the peer's row."""
        epochs, has_sites = self._epochs, len(self._entropies) > 0
        if self._learner.epoch == self._settings.num_epochs:
            self._finish()
        logits, labels = self._learner.evaluate(self._splits.val, exact=False)
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
            "val_accuracy": accuracy(self._predicted, labels),
            "num_invalid_filters": int(self._num_invalid.sum()) if has_sites else None,
            "mean_entropy_nats": float(self._entropies.mean()) if has_sites else None,
            "images_per_s": train_images / train_s,
            "train_s": train_s,
            "train_images": train_images + teacher_images,
            "diagnostics": self._diagnostics.measure(self._entropies),
        }

    def _finish(self) -> None:
        for hook in self._hooks:
            hook.finish()
        self._final.remove_dropped()

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

    def reseed(self, donor: Snapshot, num_epochs: int) -> PeerRow:
        """Replace diverged weights by a donor's weights, clear the momentum, and return the peer's row.

        The row has the donor's validation results and the diverged epoch's training loss.

        Args:
            donor: the donor's snapshot.
            num_epochs: epochs of the round; those after the divergence are skipped.
        """
        self._grafting.copy_from_(donor)
        self._learner.continue_at(self._learner.epoch + num_epochs - len(self._epochs))
        return self._measured()

    def publish(self) -> Snapshot:
        """Return a snapshot: the weights, with the entropies and predictions of the last evaluation.

        Copy it before the next call: its arrays share the weights' memory.
        """
        return self._grafting.publish(self._index, self._entropies, self._predicted)

    def graft(self, *donors: Snapshot) -> GraftColumns:
        """Blend a donor's snapshot, or the mean of several, into the weights.

        Returns:
            The columns of `grafts.parquet`, one value per site.
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

    def compare(self, *snapshots: Snapshot) -> list[DiagnosticRow]:
        """Return the diagnostics of pairs of peers: the first snapshot with each of the others."""
        own, *others = snapshots
        return [
            {"peer": own.peer, "other": other.peer, "diagnostic": name, "value": value}
            for other in others
            for name, value in compare_pair(own, other)
        ]

    # --- teachers ---

    def train_teachers(self, *indices: int) -> dict[int, bytes]:
        """Train some of the teachers and return their states by index."""
        trained = {index: self._teachers.train(index) for index in indices}
        self._teacher_images += sum(num_images for _, num_images in trained.values())
        return {index: state for index, (state, _) in trained.items()}

    def set_teachers(self, *trained: dict[int, bytes]) -> None:
        """Use the teachers that all peers trained; each argument has states by index."""
        self._teachers.take({index: state for states in trained for index, state in states.items()})

    def set_snapshot_teachers(self, *snapshots: Snapshot) -> None:
        """Use the other peers' snapshots as teachers."""
        self._snapshot_teachers.take(snapshots)

    # --- output ---

    def predict(self, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the class probabilities (N, C) for a split, `val` or `test`, and its labels (N,).

        The test set is evaluated in float32, the validation split in the training precision.
        """
        images = {"val": self._splits.val, "test": self._splits.test}[split]
        logits, labels = self._learner.evaluate(images, exact=split == "test")
        return logits.softmax(1).numpy(), labels.numpy()

    def ensemble_accuracy(self, *predictions: tuple[NDArray[np.float32], NDArray[np.int64]]) -> float:
        """Return the accuracy of the mean of some peers' class probabilities, each from `predict`."""
        mean = sum(probability for probability, _ in predictions) / len(predictions)
        return float((np.asarray(mean).argmax(1) == predictions[0][1]).mean())

    def make_soup(self, kind: str, *snapshots: Snapshot) -> None:
        """See `FinalNetwork.make_soup`."""
        self._final.make_soup(kind, snapshots)

    def cost(self) -> TrialRow:
        """See `FinalNetwork.cost`."""
        return self._final.cost()

    def process_id(self) -> int:
        """Return the ID of the peer's process."""
        return os.getpid()

    def model_card(self) -> ModelCard:
        """See `FinalNetwork.model_card`."""
        return self._final.model_card()

    def save(self) -> bytes:
        """Return the peer's complete state; see `state_bytes`."""
        return state_bytes(self._learner, self._hooks, self._teacher_images, self._final.small, self.model_card())

    def load(self, state: bytes) -> None:
        """Resume from a state that `save` returned.

        Raises:
            CheckpointError: the bytes are truncated or belong to another network.
        """
        self._teacher_images = load_state(
            state, self._learner, self._hooks, f"checkpoint of peer {self._index}", self._settings.num_epochs
        )
        self._entropies, self._num_invalid = self._grafting.entropies(), self._grafting.num_invalid_filters()
        if self._learner.epoch == self._settings.num_epochs:
            self._final.remove_dropped()
