"""Populations of a user's own network on their own images, in a few lines and without a study."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from torch import nn
from torch.utils.data import Dataset

from graftpop import population
from graftpop.data.torch_dataset import dataset_splits
from graftpop.errors import ModelError, SpaceError
from graftpop.models import PYTHON
from graftpop.models.forward_check import check_forward
from graftpop.peer.components import Components
from graftpop.peer.peer import Peer
from graftpop.population.group import Group, LocalGroup
from graftpop.population.round import Round
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.space import parse_space
from graftpop.training.optimizers import MakeOptimizer
from graftpop.training.sites import find_sites

__all__ = ["Population"]

OWN = ("data", "model", "tune", "variants", "seeds", "baseline", "published")
"""Sections and keys of a space that have no place here."""

OF_THE_OPTIMIZER = ("lr", "momentum", "weight_decay")


class Population:
    """Peers that train side by side, and exchange weights if a `graft` section says so.

        population = graftpop.Population(Net, train, test, population={"num_peers": 3},
                                         training={"epochs": 10}, graft={})
        for done in population.run():
            print(done.round, done.val_accuracy)
        network = population.network()

    Args:
        network: from the number of classes to a new network, such as its class; weights from torch's generator. A
            convolutional one with BatchNorm, whose output are logits (B, classes).
        train: items (image, label): a float tensor (C, H, W) as the network takes it, and a whole number.
        test: read once, after the last round.
        val: for selection; None: cut from `train`.
        val_fraction: share of `train` that is cut, in (0, 1).
        classes: names by label; None: the attribute `classes` of `train`.
        optimizer: from parameters to an optimizer of torch; None: SGD as `training` has it. Its learning rate takes the
            place of `training.lr`, and follows `training.schedule`.
        num_workers: processes that read items, for each peer.
        on_ray: peers are Ray actors, on the cluster that this process is connected to or one of this machine; else they
            train one after the other in this process.
        sections: `name`, `seed`, `training`, `population`, `graft` and the other methods, as in a space's YAML.

    Attributes:
        settings: in full.
        outcome: after the last round, `best_peer`, `test_accuracy` of the output, `ensemble_test_accuracy` and what the
            best network costs; empty before.

    Raises:
        GraftpopError: something in it cannot be accepted.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        train: Dataset[Any],
        test: Dataset[Any],
        *,
        val: Dataset[Any] | None = None,
        val_fraction: float = 0.1,
        classes: Sequence[str] | None = None,
        optimizer: MakeOptimizer | None = None,
        num_workers: int = 0,
        on_ray: bool = False,
        **sections: Any,
    ) -> None:
        names = classes if classes is not None else getattr(train, "classes", None)
        if not names:
            raise SpaceError(
                "classes: needs the names of the classes, since train has no attribute `classes`; give classes=[...]"
            )
        if not 0 < val_fraction < 1:
            raise SpaceError(f"val_fraction: must be in (0, 1), got {val_fraction}")
        self._network, self._num_classes, self._on_ray = network, len(names), on_ray
        self.settings = _settings(network, self._num_classes, optimizer, sections)
        make_splits = partial(
            dataset_splits,
            train,
            val,
            test,
            classes=list(map(str, names)),
            val_fraction=val_fraction,
            seed=self.settings.seed,
        )
        image_shape, name, tried = make_splits().image_shape, self.settings.model.name, self._new_network()
        check_forward(tried, image_shape, self._num_classes, f"model.name: '{name}'")
        find_sites(tried, image_shape, name)
        self._parts = Components(network, _Splits(make_splits, num_workers), optimizer)
        self._read_states: Callable[[], Iterable[tuple[int, bytes]]] = tuple
        self._best_peer = 0
        self.outcome: dict[str, Any] = {}

    def run(self) -> Iterator[Round]:
        """Train, from the first round to the last; yield what each round left.

        Raises:
            PeerError: a peer failed, or was lost more often than it may be.
        """
        with self._group() as group:
            running = population.Population(group, self.settings)
            self._read_states = running.save
            try:
                while running.round < self.settings.num_rounds:
                    done = running.step()
                    self._best_peer = done.best_peer
                    if done.is_last:
                        self.outcome = running.finish(done)
                        self._best_peer = self.outcome["best_peer"]
                    yield done
            finally:  # also of who looks at no further rounds: the peers end here, their networks stay
                states = dict(running.save()) if running.round else {}
                self._read_states = states.items

    def network(self, peer: int | None = None) -> nn.Module:
        """Return a network with the weights of a peer after the last round that was run, in evaluation mode.

        Args:
            peer: whose; None: the best one's.
        """
        wanted = self._best_peer if peer is None else peer
        states = dict(self._read_states())
        if wanted not in states:
            raise ModelError(
                f"Population.network: peer must be one of {sorted(states)}, which have done a round, got {wanted}"
            )
        tensors = tensors_from_bytes(states[wanted])
        network = self._new_network()
        network.load_state_dict(
            {name.removeprefix("network/"): tensor for name, tensor in tensors.items() if name.startswith("network/")}
        )
        return network.eval()

    def _new_network(self) -> nn.Module:
        with seeded(derive(self.settings.seed, "network"), torch.device("cpu")):
            return self._network(self._num_classes)

    def _group(self) -> AbstractContextManager[Group]:
        if self._on_ray:
            from graftpop.cluster.standalone import ray_group

            return ray_group(self.settings, self._parts)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return nullcontext(
            LocalGroup(
                lambda peer: Peer(self.settings, peer, device, parts=self._parts), self.settings.population.num_peers
            )
        )


class _Splits:
    """Makes the splits with as many processes that read as were asked for, whatever a peer could have."""

    def __init__(self, make: Callable[..., Any], num_workers: int) -> None:
        self._make, self._num_workers = make, num_workers

    def __call__(self, num_workers: int) -> Any:
        return self._make(num_workers=self._num_workers)


def _settings(
    network: Callable[[int], nn.Module], num_classes: int, optimizer: MakeOptimizer | None, sections: Mapping[str, Any]
) -> Settings:
    if wrong := [name for name in OWN if name in sections]:
        raise SpaceError(f"{wrong[0]}: has no place in a population of one's own network and images; leave it out")
    training = dict(sections.get("training", {}))
    if optimizer is not None:
        if wrong := [name for name in OF_THE_OPTIMIZER if name in training]:
            raise SpaceError(f"training.{wrong[0]}: is the optimizer's, got both; leave it out")
        with seeded(0, torch.device("cpu")):  # nothing is drawn from the user's own generator
            training["lr"] = optimizer(network(num_classes).parameters()).param_groups[0]["lr"]
    name = f"{PYTHON}{getattr(network, '__module__', '')}.{getattr(network, '__qualname__', 'network')}"
    space = parse_space({**sections, "training": training, "model": {"name": name}}, "Population")
    if space.domains:
        raise SpaceError(
            f"Population: searches nothing, got a domain for {', '.join(space.domains)}; graftpop.tune does"
        )
    return space.resolve()
