"""Teachers of distillation: networks that are loaded or trained beforehand, and the other peers' snapshots."""

import copy
from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from graftpop.data import Splits
from graftpop.errors import CheckpointError
from graftpop.models import build
from graftpop.models.module_check import without_ties
from graftpop.models.teacher import load_teacher
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings, TeacherSettings
from graftpop.tasks.find import num_outputs
from graftpop.tasks.task import Task
from graftpop.training.flat_state import FlatState
from graftpop.training.learner import Learner
from graftpop.training.schedules import learning_rate, peak_epoch
from graftpop.training.snapshot import Snapshot

__all__ = ["SnapshotTeachers", "Teachers"]


class Teachers:
    """The teachers of one peer: loaded when created, or trained by one peer and sent to all.

    Args:
        settings: the population's settings; without the section `distillation` there are no teachers.
        splits: the data.
        task: the task that trained teachers learn.
        device: device of the teachers.

    Attributes:
        networks: the teachers in evaluation mode; the trained ones are added by `take`.

    Raises:
        CheckpointError: a teacher's checkpoint is absent, damaged, or holds another network.
        ModelError: a teacher's network or published weights do not exist, or do not fit the data.
    """

    def __init__(self, settings: Settings, splits: Splits, task: Task, device: torch.device) -> None:
        self._settings, self._splits, self._task, self._device = settings, splits, task, device
        self._teacher_settings = settings.distillation.teachers if settings.distillation else []
        self._num_outputs = num_outputs(task, splits)
        self.networks = [
            load_teacher(
                teacher,
                self._num_outputs,
                splits.image_shape,
                f"distillation.teachers[{index}]",
                mean=splits.recipe.mean,
                std=splits.recipe.std,
            ).to(device)
            for index, teacher in enumerate(self._teacher_settings)
            if teacher.epochs is None
        ]
        self._num_loaded = len(self.networks)

    def train(self, index: int) -> tuple[bytes, int, float]:
        """Train a teacher on the students' training images; return its serialized state, the images and the seconds.

        Args:
            index: index of the teacher in the settings.
        """
        teacher, training = self._teacher_settings[index], self._settings.training
        epochs = teacher.epochs or 0
        name = f"teacher-{index}"
        with seeded(derive(self._settings.seed, "initialisation", name), torch.device("cpu")):
            network = self._network_of(teacher)
        learner = Learner(
            network,
            self._splits.train,
            training,
            self._task,
            lr=learning_rate(training, epochs),
            peak_epoch=peak_epoch(training, epochs),
            seed=self._settings.seed,
            peer=name,
            device=self._device,
        )
        done = [learner.train_epoch() for _ in range(epochs)]
        num_images, train_s = sum(epoch.num_images for epoch in done), sum(epoch.train_s for epoch in done)
        return tensors_to_bytes(without_ties(network.state_dict())), num_images, train_s

    def take(self, states: Mapping[int, bytes]) -> None:
        """Add the trained teachers in the order of the settings; earlier trained ones are replaced.

        Args:
            states: states that `train` returned, by index of the teacher.

        Raises:
            CheckpointError: a state does not fit the network of its teacher.
        """
        del self.networks[self._num_loaded :]
        for index in sorted(states):
            try:
                network = self._network_of(self._teacher_settings[index])
                network.load_state_dict(tensors_from_bytes(states[index]))
            except (IndexError, RuntimeError, SafetensorError) as error:
                raise CheckpointError(f"checkpoint of teacher {index}: does not fit its network: {error}") from error
            self.networks.append(network.to(self._device).eval().requires_grad_(False))

    def _network_of(self, teacher: TeacherSettings) -> nn.Module:
        return build(teacher.model or "", self._num_outputs, args=teacher.args)


class SnapshotTeachers:
    """The other peers' networks with the weights of their last snapshots.

    Args:
        network: a network of the same architecture; it is copied.

    Attributes:
        networks: the networks in evaluation mode; empty before the first snapshots.
    """

    def __init__(self, network: nn.Module) -> None:
        self._pattern = network
        self._states: list[FlatState] = []
        self.networks: list[nn.Module] = []

    def take(self, snapshots: Sequence[Snapshot]) -> None:
        """Load the snapshots' weights into the networks, in their order; one network per snapshot is left."""
        del self.networks[len(snapshots) :], self._states[len(snapshots) :]
        while len(self.networks) < len(snapshots):
            network = copy.deepcopy(self._pattern).eval().requires_grad_(False)
            self.networks.append(network)
            self._states.append(FlatState(network))
        for state, snapshot in zip(self._states, snapshots, strict=True):
            state.buffer.copy_(torch.tensor(snapshot.weights))
