"""A peer: a learner with its methods, and the calls that a population makes.

Arguments and results are numbers, bytes and numpy arrays, so a peer works the same in this process and as a Ray actor.
"""

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from graftpop.errors import ModelError, PeerDiverged
from graftpop.exchange.alignment import Alignment, receive_aligned
from graftpop.exchange.build import make_rule, published_by
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import copy_from_, take_snapshot
from graftpop.hooks.build import make_hooks
from graftpop.losses.teachers import SnapshotTeachers, Teachers
from graftpop.models.card import ModelCard
from graftpop.peer.best_round import BestRound
from graftpop.peer.components import Components, named_components
from graftpop.peer.diagnostics import Diagnostics, compare_pair
from graftpop.peer.final_network import FinalNetwork
from graftpop.peer.learning import add_loss_terms, make_learner
from graftpop.peer.sites import channel_groups_of, pruning_plan_of, rankable, sites_of
from graftpop.peer.state import Stateful, check_normalization, load_state, state_bytes
from graftpop.peer.step_exchange import StepExchange
from graftpop.rows import DiagnosticRow, Exchanged, PeerRow, TrialRow, with_metrics
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.tasks.find import num_outputs
from graftpop.tasks.task import Outputs
from graftpop.training.collective import CollectiveCall, as_numpy_collective, run_alone
from graftpop.training.epoch import EpochMetrics
from graftpop.training.filters import site_filters
from graftpop.training.snapshot import Snapshot, as_tensor

__all__ = ["Peer"]

logger = logging.getLogger("graftpop")


class Peer:
    """One network of a population, with its data, optimizer and random state.

    Args:
        settings: the population's settings.
        index: index of the peer, from 0.
        device: torch device of the training, such as `cuda`.
        num_workers: processes that read its images from disk, if they do not fit in memory.
        components: the peer's network, data, task and optimizer; None: as the settings name them.
    """

    def __init__(
        self,
        settings: Settings,
        index: int,
        device: str = "cpu",
        num_workers: int = 0,
        components: Components | None = None,
    ) -> None:
        population = settings
        self._settings = settings = population.of_peer(index)
        self._index = index
        self._device = torch.device(device)
        components = components or named_components(settings)
        splits = self._splits = components.make_splits(settings, num_workers)
        task = self._task = components.make_task(settings)
        with seeded(
            derive(settings.seed, "initialisation", 0 if settings.initialization == "same" else index),
            torch.device("cpu"),
        ):
            network = components.make_network(num_outputs(task, splits))
        sites = sites_of(settings, network, splits.image_shape)
        groups = channel_groups_of(settings, network, splits.image_shape)
        plan = pruning_plan_of(settings, network, sites, splits.image_shape)
        self._learner = make_learner(settings, index, network, splits, task, self._device, components)
        self._measures = site_measures(self._learner.state, sites, settings.graft)
        per_round, every = settings.population.epochs_per_round, settings.population.exchange_every
        context = ExchangeContext(
            index,
            self._learner.state,
            sites,
            self._measures,
            settings,
            num_steps=self._learner.num_steps,
            lr_ratio=self._learner.lr_ratio,
            steps_between=per_round * self._learner.steps_per_epoch if every == "round" else every,
            momentum=self._learner.momentum,
            user_parts=components.user_parts,
        )
        self._rule = make_rule(context)
        self._alignment = Alignment(self._learner.state, groups) if groups else None
        self._step_exchange: StepExchange | None = None
        if self._rule is not None and settings.exchanges_in_steps:
            start = settings.common_epochs * self._learner.steps_per_epoch
            self._step_exchange = self._learner.weight_exchange = StepExchange(
                self._rule, settings, index, start, self._alignment
            )
        self._learner.sync_epochs = settings.sync_epochs
        self._hooks = make_hooks(settings, self._learner, site_filters(self._learner, rankable(sites)), index, plan)
        self._best_round = BestRound(self._learner.state) if settings.training.keep == "best" else None
        more = (self._rule, self._best_round)
        self._stateful: list[Stateful] = [*self._hooks, *(part for part in more if part is not None)]
        self._diagnostics = Diagnostics(site_filters(self._learner, sites), settings.diagnostics, settings.sites)
        of_teachers = task if settings is population else components.make_task(population)
        self._teachers = Teachers(population, splits, of_teachers, self._device)
        self._snapshot_teachers = SnapshotTeachers(network)
        add_loss_terms(self._learner, settings, index, task, self._teachers, self._snapshot_teachers)
        self._final = FinalNetwork(self._learner, sites, splits, task, settings)
        self._decisions = torch.empty(0, dtype=torch.int64)
        self._teacher_images, self._teacher_s = 0, 0.0  # not reported yet
        self._epochs: list[EpochMetrics] = []  # of this round

    # --- a round ---

    def train(self, num_epochs: int) -> PeerRow | CollectiveCall[PeerRow]:
        """Train some epochs, evaluate on the validation split, and return the peer's row of `rounds.parquet`.

        If peers exchange logits or weights within the round, this returns a collective; its result is the row.

        Raises:
            PeerDiverged: the loss or the weights are no longer finite.
        """
        collective = self._train(num_epochs)
        if self._settings.runs_in_lockstep:
            return collective
        return run_alone(collective, f"peer {self._index}: trains with a collective, but exchanges nothing")

    def _train(self, num_epochs: int) -> CollectiveCall[PeerRow]:
        self._epochs.clear()
        if self._step_exchange is not None:
            self._step_exchange.restart()
        for _ in range(num_epochs):
            yield from self._train_epoch()
        return self._measured()

    def _measured(self, *, is_last: bool = False) -> PeerRow:
        """Evaluate the network on the validation split, in the training precision, and return the peer's row.

        Args:
            is_last: whether the training ends here, as it does after the last epoch.
        """
        epochs = self._epochs
        is_last = is_last or self._learner.epoch == self._settings.num_epochs
        if is_last:
            for hook in self._hooks:
                hook.finish()
            self._final.remove_dropped()
        outputs, targets, predictions, scores = self._evaluated()
        if self._best_round is not None:
            merit = self._settings.primary.merit(scores[self._settings.primary.name])
            if is_last and self._best_round.restore_(merit):
                outputs, targets, predictions, scores = self._evaluated()
            self._best_round.consider(merit)
        self._decisions = self._task.decisions(predictions, targets)
        self._measures.update()
        entropies, has_sites = self._measures.entropies, len(self._measures.site_names) > 0
        train_images = sum(epoch.num_images for epoch in epochs)
        train_s = sum(epoch.train_s for epoch in epochs)
        teacher_images, self._teacher_images = self._teacher_images, 0
        teacher_s, self._teacher_s = self._teacher_s, 0.0
        row: PeerRow = {
            "peer": self._index,
            "epoch": self._learner.epoch,
            "lr": epochs[-1].lr,
            "train_loss": epochs[-1].loss,
            "train_accuracy": epochs[-1].accuracy,
            "val_loss": self._task.validation_loss(outputs, targets),
            "num_invalid_filters": int(self._measures.num_invalid_filters.sum()) if has_sites else None,
            "mean_entropy_nats": float(entropies.mean()) if has_sites else None,
            "images_per_s": train_images / train_s,
            "train_s": train_s + teacher_s,
            "train_images": train_images + teacher_images,
            "diagnostics": self._diagnostics.measure(entropies),
        }
        primary = self._settings.primary
        logger.info(
            "peer %d, epoch %d: training loss %.4g, validation %s %s, %.0f images/s",
            self._index,
            self._learner.epoch,
            row["train_loss"],
            primary.label,
            primary.text(scores[primary.name]),
            row["images_per_s"],
        )
        return with_metrics(row, "val", scores)

    def _evaluated(self) -> tuple[Outputs, Tensor, Tensor, Mapping[str, float]]:
        """Return outputs, targets, predictions and scores of the validation split."""
        outputs, targets = self._learner.evaluate(self._splits.val, exact=False)
        predictions = self._task.predict(outputs)
        return outputs, targets, predictions, self._task.score(predictions, targets)

    def end(self) -> PeerRow:
        """End the training before its last epoch, and return the peer's row, measured again."""
        return self._measured(is_last=True)

    def _train_epoch(self) -> CollectiveCall[None]:
        if self._rule is not None and self._learner.epoch == self._settings.common_epochs:
            self._rule.begin()  # before the hooks, whose random numbers differ between peers
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
        copy_from_(self._learner.state, donor)
        self._learner.continue_at(self._learner.epoch + num_epochs - len(self._epochs))
        for hook in self._hooks:
            hook.restart()
        return self._measured()

    def publish(self) -> Snapshot:
        """Return a snapshot: the weights, with the entropies and predictions of the last evaluation.

        Copy it before the next call: its arrays share the weights' memory.
        """
        return take_snapshot(
            self._learner.state, self._index, self._measures.entropies, self._decisions, published_by(self._rule)
        )

    def exchange(self, *donors: Snapshot) -> Exchanged:
        """Change the weights by the exchange rule, given the donors' snapshots, and return the records.

        Raises:
            ModelError: a donor's network has another architecture.
        """
        for donor in donors:
            if donor.weights.shape != tuple(self._learner.state.buffer.shape):
                raise ModelError(
                    f"model.name: '{self._settings.model.name}' must build the same architecture for every peer that "
                    f"exchanges weights, got {self._learner.state.buffer.numel()} numbers at peer {self._index} and "
                    f"{donor.weights.size} at peer {donor.peer}; make the network a function of the number of outputs"
                )
        figures = receive_aligned(self._rule_of_exchange, donors, self._alignment)
        if self._settings.population.repair:
            self._learner.recalibrate()
        return {"figures": figures, "columns": self._rule_of_exchange.columns()}

    def exchanged(self) -> Exchanged:
        """Return the records of the exchanges within the round: mean figures, and the columns of the last exchange."""
        figures = self._step_exchange.figures if self._step_exchange is not None else {}
        return {"figures": dict(figures), "columns": self._rule_of_exchange.columns()}

    @property
    def _rule_of_exchange(self) -> ExchangeRule:
        if self._rule is None:
            raise RuntimeError(f"peer {self._index}: its settings have no exchange rule")
        return self._rule

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
        """Train this peer's share of the teachers and return their states by index; a repetition counts once."""
        trained = {index: self._teachers.train(index) for index in indices}
        self._teacher_images = sum(num_images for _, num_images, _ in trained.values())
        self._teacher_s = sum(train_s for *_, train_s in trained.values())
        return {index: state for index, (state, *_) in trained.items()}

    def set_teachers(self, *trained: dict[int, bytes]) -> None:
        """Use the teachers that all peers trained; each argument has states by index."""
        self._teachers.take({index: state for states in trained for index, state in states.items()})

    def set_snapshot_teachers(self, *snapshots: Snapshot) -> None:
        """Use the other peers' snapshots as teachers."""
        self._snapshot_teachers.take(snapshots)

    # --- output ---

    def predict(self, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the task's predictions (N, ...) for a split, `val` or `test`, and its targets (N, ...).

        The test set is evaluated in float32, the validation split in the training precision.
        """
        images = {"val": self._splits.val, "test": self._splits.test}[split]
        outputs, targets = self._learner.evaluate(images, exact=split == "test")
        return self._task.predict(outputs).numpy(), targets.numpy()

    def ensemble_scores(self, *predictions: tuple[NDArray[Any], NDArray[Any]]) -> dict[str, float]:
        """Return the value of every metric, by name, for the combined predictions of some peers, from `predict`."""
        combined = self._task.combine([as_tensor(one) for one, _ in predictions])
        return dict(self._task.score(combined, as_tensor(predictions[0][1])))

    def make_soup(self, kind: str, *snapshots: Snapshot) -> None:
        """See `FinalNetwork.make_soup`; with `align` the snapshots are aligned to this peer first."""
        if self._alignment is not None:
            snapshots = tuple(self._alignment.align(snapshot)[0] for snapshot in snapshots)
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
        of_teachers = self._teacher_images, self._teacher_s
        return state_bytes(self._learner, self._stateful, of_teachers, self._final.small, self.model_card())

    def load(self, state: bytes) -> None:
        """Resume from a state that `save` returned.

        Raises:
            CheckpointError: the bytes are truncated or belong to another network.
        """
        where = f"checkpoint of peer {self._index}"
        if self._settings.model.has_start:  # the weights to start from decide on the normalization
            check_normalization(state, self.model_card(), where)
        self._teacher_images, self._teacher_s = load_state(
            state, self._learner, self._stateful, where, self._settings.num_epochs
        )
        self._measures.update()
        if self._learner.epoch == self._settings.num_epochs:
            self._final.remove_dropped()
