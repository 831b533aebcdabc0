"""A peer's learner with its schedule and loss terms, as its settings describe them."""

import torch
from torch import Tensor, nn

from graftpop.data import Splits
from graftpop.losses.distillation import distillation_term
from graftpop.losses.mutual import mutual_term
from graftpop.losses.teachers import SnapshotTeachers, Teachers
from graftpop.peer.components import Components
from graftpop.settings import Settings
from graftpop.tasks.task import Task
from graftpop.training.learner import Learner
from graftpop.training.precision import training_dtype
from graftpop.training.schedules import learning_rate, peak_epoch, peer_learning_rate

__all__ = ["add_loss_terms", "make_learner"]


def make_learner(  # everything that a learner is made of
    settings: Settings,
    peer: int,
    network: nn.Module,
    splits: Splits,
    task: Task,
    device: torch.device,
    components: Components,
) -> Learner:
    """Return the learner of one peer.

    Args:
        settings: the population's settings.
        peer: index of the peer, from 0.
        network: network with its initial weights; the learner trains it in place.
        splits: the peer's data.
        task: the peer's task.
        device: torch device of the training.
        components: the peer's components; only `make_optimizer` is used.
    """
    training, population = settings.training, settings.population
    lr = training.lr
    if population.diversity == "learning_rate":
        lr = peer_learning_rate(lr, peer, population.num_peers)
    return Learner(
        network,
        splits.train,
        training,
        task,
        lr=learning_rate(training, settings.num_epochs, settings.swa, lr=lr),
        peak_epoch=peak_epoch(training, settings.num_epochs),
        seed=settings.seed,
        peer=peer,
        device=device,
        data_peer=0 if settings.exchanges_logits else None,
        make_optimizer=components.make_optimizer,
    )


def add_loss_terms(
    learner: Learner, settings: Settings, peer: int, task: Task, teachers: Teachers, snapshot_teachers: SnapshotTeachers
) -> None:
    """Add the loss terms of distillation and mutual learning to a learner.

    Args:
        learner: the peer's learner.
        settings: the population's settings.
        peer: index of the peer, from 0.
        task: the peer's task.
        teachers: networks that distillation learns from.
        snapshot_teachers: the other peers' last snapshots, for codistillation.
    """
    dtype = training_dtype(settings.training.precision, learner.state.buffer.device)
    distillation, mutual = settings.distillation, settings.mutual

    def logits_of(network: nn.Module, inputs: Tensor) -> Tensor:
        logits = task.logits(task.forward(network, inputs))
        assert logits is not None, "the settings refuse distillation and mutual learning without logits"
        return logits

    if distillation is not None:
        learner.loss_terms.append(
            distillation_term(
                teachers.networks,
                logits_of,
                temperature=distillation.temperature,
                weight=distillation.weight,
                dtype=dtype,
            )
        )
    if mutual is not None and mutual.exchange == "snapshots":
        learner.loss_terms.append(
            distillation_term(
                snapshot_teachers.networks, logits_of, temperature=mutual.temperature, weight=mutual.weight, dtype=dtype
            )
        )
    elif mutual is not None:
        learner.mutual_term = mutual_term(peer, temperature=mutual.temperature, weight=mutual.weight)
