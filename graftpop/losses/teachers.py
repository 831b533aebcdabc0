"""Networks that teach: those with a training of their own, and the peers' last snapshots."""

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
from graftpop.models.pretrained import load_teacher
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings, TeacherSettings
from graftpop.training.flat_state import FlatState
from graftpop.training.learner import Learner
from graftpop.training.schedules import learning_rate
from graftpop.training.snapshot import Snapshot

__all__ = ["SnapshotTeachers", "Teachers"]


class Teachers:
    """The teachers of one peer: loaded at once, or trained by one of the peers and handed to all.

    Args:
        settings: the population's, with a section distillation.
        splits: the data.
        device: where they compute.

    Attributes:
        networks: in evaluation mode, as many as there are; complete once those to be trained have been taken.

    Raises:
        ModelError: a checkpoint that does not hold such a teacher.
    """

    def __init__(self, settings: Settings, splits: Splits, device: torch.device) -> None:
        self._settings, self._splits, self._device = settings, splits, device
        self._wanted = settings.distillation.teachers if settings.distillation else []
        self.networks = [
            load_teacher(
                teacher,
                len(splits.class_names),
                splits.image_shape,
                f"distillation.teachers[{index}]",
                mean=splits.recipe.mean,
                std=splits.recipe.std,
            ).to(device)
            for index, teacher in enumerate(self._wanted)
            if teacher.epochs is None
        ]
        self._num_loaded = len(self.networks)

    def train(self, index: int) -> tuple[bytes, int]:
        """Train a teacher as its settings say, on what the students see; return its state and the images it took.

        Args:
            index: which of the settings' teachers.
        """
        teacher, training = self._wanted[index], self._settings.training
        epochs = teacher.epochs or 0
        name = f"teacher-{index}"
        with seeded(derive(self._settings.seed, "initialisation", name), torch.device("cpu")):
            network = self._network_of(teacher)
        lr = learning_rate(training.lr, training.schedule, epochs)
        learner = Learner(
            network, self._splits.train, training, lr=lr, seed=self._settings.seed, peer=name, device=self._device
        )
        num_images = sum(learner.train_epoch().num_images for _ in range(epochs))
        return tensors_to_bytes({key: tensor.contiguous() for key, tensor in network.state_dict().items()}), num_images

    def take(self, states: Mapping[int, bytes]) -> None:
        """Complete the teachers by those that were trained, in place of any that were taken before.

        Args:
            states: by index, as `train` returned them.

        Raises:
            CheckpointError: one is not that of its network.
        """
        del self.networks[self._num_loaded :]
        for index in sorted(states):
            try:
                network = self._network_of(self._wanted[index])
                network.load_state_dict(tensors_from_bytes(states[index]))
            except (IndexError, RuntimeError, SafetensorError) as error:
                raise CheckpointError(f"checkpoint of teacher {index}: not that of its network: {error}") from error
            self.networks.append(network.to(self._device).eval().requires_grad_(False))

    def _network_of(self, teacher: TeacherSettings) -> nn.Module:
        return build(teacher.model or "", len(self._splits.class_names))


class SnapshotTeachers:
    """The other peers as their last snapshots have them.

    Args:
        network: of the same architecture.

    Attributes:
        networks: in evaluation mode; none before the first snapshots.
    """

    def __init__(self, network: nn.Module) -> None:
        self._pattern = network
        self._states: list[FlatState] = []
        self.networks: list[nn.Module] = []

    def take(self, snapshots: Sequence[Snapshot]) -> None:
        """Let the networks be what some snapshots say."""
        while len(self.networks) < len(snapshots):
            network = copy.deepcopy(self._pattern).eval().requires_grad_(False)
            self.networks.append(network)
            self._states.append(FlatState(network))
        for state, snapshot in zip(self._states, snapshots, strict=True):
            state.buffer.copy_(torch.tensor(snapshot.weights))
