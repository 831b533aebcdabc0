"""Populations of one's own network, images and optimizer, as a script has them."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch
import user_parts
from network_makers import same_bits
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from user_parts import Net, adam, digits

import graftpop
from graftpop.data.torch_dataset import DatasetImages, dataset_splits
from graftpop.errors import DataError, GraftpopError, ModelError, PeerError, SpaceError
from graftpop.training.optimizers import TorchOptimizer
from graftpop.training.sgd import MomentumSGD

CPU = torch.device("cpu")


class Twice(Net):
    """Gives its logits twice."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images), super().forward(images)


class Typo(Net):
    """Names a layer that it does not have."""

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.layer(images))


def own(network: Callable[[int], nn.Module] = Net, **options: Any) -> graftpop.Population:
    train, test = digits()
    sections: dict[str, Any] = {
        "classes": list("0123456789"),
        "training": {"epochs": 2, "batch_size": 32, "precision": "float32"},
        "graft": {},
    }
    return graftpop.Population(network, train, test, **(sections | options))


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def test_a_population_of_ones_own_parts_trains_grafts_and_gives_its_networks_back() -> None:
    population = own(optimizer=adam)
    rounds = list(population.run())
    assert [done.round for done in rounds] == [1, 2]
    assert set(rounds[0].grafts["site"]) == {"layers.0", "layers.3"}
    assert rounds[0].peers[0]["lr"] == pytest.approx(4e-3)
    best = population.network()
    assert not best.training
    assert same_bits(weights_of(best), weights_of(population.network(population.outcome["best_peer"])))
    images, labels = zip(*digits()[1], strict=True)
    with torch.no_grad():
        accuracy = (best(torch.stack(images)).argmax(1) == torch.stack(labels)).double().mean()
    assert population.outcome["test_accuracy"] == pytest.approx(float(accuracy))


def test_the_networks_of_a_loop_that_was_left_are_those_of_its_last_round() -> None:
    population = own()
    for _ in population.run():
        within = weights_of(population.network(1))
        break
    assert same_bits(within, weights_of(population.network(1)))
    assert population.outcome == {}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_actors_give_the_bits_of_this_process() -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(user_parts)  # a Ray that runs already does not find modules of tests
    here, there = own(optimizer=adam), own(optimizer=adam, on_ray=True)
    rounds = list(here.run())  # with one thread, as conftest.py says and an actor of one core has
    assert [done.val_accuracy for done in there.run()] == [done.val_accuracy for done in rounds]
    assert there.outcome == here.outcome
    assert all(same_bits(weights_of(here.network(peer)), weights_of(there.network(peer))) for peer in (0, 1))


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_what_a_peers_process_cannot_import_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, module = type("Hidden", (Net,), {"__module__": "only_here"}), ModuleType("only_here")
    monkeypatch.setattr(module, "Hidden", hidden, raising=False)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(
        PeerError,
        match=r"peer \d: its process cannot have the network, images or optimizer: No module "
        r"named 'only_here'; put their modules where every node can import them",
    ):
        next(own(hidden, on_ray=True).run())


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3), {"lr": 0.05, "weight_decay": 1e-3}),
        (partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4), {"lr": 0.05}),
    ],
)
def test_torchs_sgd_trains_as_ours_does(make: Any, plain: dict[str, float]) -> None:
    """To rounding: torch's loop adds in another order than its fused step."""
    training = {"epochs": 1, "batch_size": 32, "precision": "float32"}
    one, other = own(optimizer=make, training=training), own(training=training | plain)
    first, second = (list(population.run())[-1] for population in (one, other))
    assert [row["train_loss"] for row in first.peers] == pytest.approx([row["train_loss"] for row in second.peers])


class Drawing(Dataset[Any]):
    """Items that draw from torch's generator while they are read, as transforms do."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 4, 4), float(index)) + torch.rand(1, 4, 4) / 2, index % 2


def read(images: DatasetImages, seed: int) -> Tensor:
    return torch.cat([pixels for pixels, _ in images.training_batches(4, seed, CPU)])


def test_items_are_functions_of_the_seed_whoever_reads_them() -> None:
    here = read(DatasetImages(Drawing()), seed=1)
    state = torch.get_rng_state()
    assert torch.equal(here, read(DatasetImages(Drawing(), num_workers=2), seed=1))
    assert torch.equal(state, torch.get_rng_state())
    other = read(DatasetImages(Drawing()), seed=2)
    assert not torch.equal(here.floor(), other.floor())  # the order
    assert not torch.equal(here.sort(0).values, other.sort(0).values)  # what they drew
    assert sorted(here.amin((1, 2, 3)).floor().tolist()) == list(range(10))


def test_a_single_image_is_left_out_of_training_and_not_of_evaluation() -> None:
    images = DatasetImages(Subset(Drawing(), range(9)))
    assert len(read(images, seed=0)) == 8
    assert sum(len(labels) for _, labels in images.evaluation_batches(4, CPU)) == 9


def test_the_validation_images_are_cut_by_seed_and_no_longer_train() -> None:
    train, test = digits()
    cut = [dataset_splits(train, None, test, classes="0123456789", val_fraction=0.2, seed=seed) for seed in (0, 0, 1)]
    assert (cut[0].train.num_images, cut[0].val.num_images, cut[0].test.num_images) == (240, 60, 100)
    seen = [torch.cat([images for images, _ in splits.val.evaluation_batches(60, CPU)]) for splits in cut]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    given = dataset_splits(train, test, test, classes="0123456789", val_fraction=0.2, seed=0)
    assert (given.train.num_images, given.val.num_images) == (300, 100)


@pytest.mark.parametrize(
    "make",
    [
        adam,
        partial(torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        partial(torch.optim.RMSprop, lr=0.01),
        partial(torch.optim.Adagrad, lr=0.01),
    ],
)
def test_an_optimizer_goes_on_from_its_state_to_the_bit(make: Any) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return Net(10)

    def train(network: nn.Module, optimizer: TorchOptimizer, steps: range) -> None:
        for step in steps:
            optimizer.lr = 0.01 / (1 + step)
            optimizer.zero_grad()
            network(torch.full((4, 1, 8, 8), 0.1 * step)).square().sum().backward()
            optimizer.step()

    whole, first, second = network(), network(), network()
    train(whole, TorchOptimizer(dict(whole.named_parameters()), make), range(6))
    before = TorchOptimizer(dict(first.named_parameters()), make)
    train(first, before, range(3))
    second.load_state_dict(first.state_dict())
    after = TorchOptimizer(dict(second.named_parameters()), make)
    after.load_state_dict(before.state_dict())
    train(second, after, range(3, 6))
    assert same_bits(weights_of(whole), weights_of(second))


def test_groups_of_parameters_keep_the_ratio_of_their_learning_rates() -> None:
    network = Net(10)
    optimizer = TorchOptimizer(
        dict(network.named_parameters()),
        lambda parameters: torch.optim.SGD(
            [{"params": [next(iter(parameters))], "lr": 0.4}, {"params": list(network.layers[8].parameters())}], lr=0.1
        ),
    )
    optimizer.lr = 0.2
    assert optimizer.lr == 0.2
    assert [group["lr"] for group in optimizer._optimizer.param_groups] == [0.2, pytest.approx(0.05)]


@pytest.mark.parametrize("make", [None, adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
def test_momentum_can_be_read_and_changed_and_forgotten(make: Any) -> None:
    network = Net(10)
    parameters = dict(network.named_parameters())
    optimizer = (
        MomentumSGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.0)
        if make is None
        else TorchOptimizer(parameters, make)
    )
    assert optimizer.momentum("layers.0.weight") is None
    network(torch.rand(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    momentum = optimizer.momentum("layers.0.weight")
    assert momentum is not None
    momentum.zero_()
    assert not any(
        tensor.any()
        for name, tensor in optimizer.state_dict().items()
        if "layers.0.weight" in name and ("momentum" in name or name.endswith("exp_avg"))
    )
    optimizer.forget()
    assert optimizer.state_dict() == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"classes": None},
            SpaceError,
            r"classes: needs the names of the classes, since train has no attribute `classes`",
        ),
        ({"val_fraction": 1.0}, SpaceError, r"val_fraction: must be in \(0, 1\), got 1.0"),
        ({"model": {"name": "resnet20"}}, SpaceError, "model: has no place in a population of one's own network"),
        ({"optimizer": adam, "training": {"lr": 0.1}}, SpaceError, "training.lr: is the optimizer's, got both"),
        ({"graft": {"A": {"uniform": [0, 1]}}}, SpaceError, "searches nothing, got a domain for graft.A"),
        ({"graft": {"topology": "ring"}}, SpaceError, "graft.topology"),
        (
            {"network": lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))},
            ModelError,
            "has no site",
        ),
        (
            {"network": lambda num_classes: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))},
            ModelError,
            r"cannot take images of shape \(1, 8, 8\)",
        ),
        (
            {"network": lambda num_classes: Net(num_classes + 1)},
            ModelError,
            r"must give logits of shape \(images, 10\), one a class, got \(2, 11\) for 2 images",
        ),
        ({"network": Twice}, ModelError, r"must give logits .*, got tuple for 2 images"),
        (
            {"network": Typo},
            ModelError,
            r"'.*Typo' must take images of shape \(1, 8, 8\), got AttributeError: 'Typo' object has no attribute 'layer'",
        ),
    ],
)
def test_what_cannot_be_accepted_is_one_line_before_anything_trains(
    options: dict[str, Any], error: type[GraftpopError], message: str
) -> None:
    with pytest.raises(error, match=message) as describe_exception:
        own(**options)
    assert "\n" not in str(describe_exception.value)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([(np.zeros((1, 8, 8)), 0)] * 3, r"an item of train must be \(image, label\).*got \('ndarray', 'int'\)"),
        ([torch.zeros(1, 8, 8)] * 3, "an item of train must be .*got Tensor"),
        ([(torch.zeros(8, 8), 0)] * 3, "an item of train must be"),
        ([], "train has no images"),
        ([(torch.zeros(1, 9, 9), 0)] * 3, "images must have one shape in all splits"),
        ([(torch.zeros(1, 8, 8), 0)], "at least 2 images must be left to train on"),
    ],
)
def test_items_that_are_no_images_are_one_line(items: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        graftpop.Population(Net, items, digits()[1], classes="0123456789")


def test_a_network_is_there_after_a_round_only() -> None:
    with pytest.raises(ModelError, match=r"peer must be one of \[\], which have done a round, got 0"):
        own().network()


def test_what_a_tuner_searches_stands_in_its_param_space(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("graft: {A: {uniform: [0.0, 1.0]}}\ndata: {name: digits}\n", encoding="utf-8")
    with pytest.raises(SpaceError, match="must search nothing, since the Tuner does, got a domain for graft"):
        graftpop.trainable(space, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
