"""graftpop.Population with a user-defined network, images and optimizer."""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import user_parts
from network_makers import same_bits
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset
from user_parts import Net, Pull, adam, digits, keep_the_better, spread

import graftpop
from graftpop.data import batch_reader
from graftpop.data.torch_dataset import DatasetImages, dataset_splits
from graftpop.errors import DataError, GraftpopError, ModelError, SpaceError
from graftpop.settings import AugmentationSettings
from graftpop.training.optimizers import TorchOptimizer
from graftpop.training.sgd import MomentumSGD

CPU = torch.device("cpu")


class Twice(Net):
    """Returns its logits twice."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images), super().forward(images)


class LightningModule(nn.Module):
    """Stands in for the class of Lightning, which is no dependency."""

    __module__ = "lightning.pytorch.core.module"


class OfLightning(LightningModule, Net):
    """Would be trained by its own training_step."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        raise AssertionError(batch_idx)


class Typo(Net):
    """Uses an absent layer."""

    def forward(self, images: Tensor) -> Tensor:
        return cast(Any, self).layer(images)


def make_population(network: Callable[[int], nn.Module] = Net, **options: Any) -> graftpop.Population:
    train, test = digits()
    sections: dict[str, Any] = {
        "classes": list("0123456789"),
        "training": {"epochs": 2, "batch_size": 32, "precision": "float32"},
        "graft": {},
    }
    return graftpop.Population(network, train, test, **(sections | options))


def test_user_defined_rule_and_functions_are_used_by_every_peer() -> None:
    count = [
        [row["value"] for row in done.diagnostics if row["diagnostic"] == "exchanges"]
        for done in make_population(exchange=Pull, graft=None).run()
    ]
    assert count == [[1.0, 1.0], []]
    own = make_population(graft={"alpha": keep_the_better, "criterion": spread, "level": "filter"})
    alpha = next(own.run()).grafts["alpha"]
    assert all(0.1 <= value <= 0.9 for value in alpha)
    assert any(0.1 < value < 0.9 for value in alpha)  # means over filters


def test_unequal_architectures_are_refused_when_they_meet() -> None:
    widths = itertools.cycle([8, 12])

    class Changing(Net):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)
            self.extra = nn.Linear(next(widths), 1)

    with pytest.raises(ModelError, match=r"^model\.name: [^\n]*same architecture[^\n]*peer 0[^\n]*peer 1[^\n]*$"):
        next(make_population(Changing).run())


def test_history_and_figures_show_every_round(capsys: pytest.CaptureFixture[str]) -> None:
    population = make_population()
    with pytest.raises(ModelError, match=r"^Population\.plot: "):
        population.plot()
    assert "0 of 2" in population._repr_html_()
    rounds = list(population.run(progress=True))
    assert "2/2" in capsys.readouterr().err
    rows = [row for done in rounds for row in done.peers]
    scores_of_rows = [done.primary.value_of(row) for done in rounds for row in done.peers]
    history = population.history
    assert list(zip(history["round"], history["peer"], strict=True)) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert history["val_accuracy"].tolist() == scores_of_rows
    assert history["train_loss"].tolist() == [row["train_loss"] for row in rows]
    scores = [trace for trace in population.plot().data if trace.yaxis == "y"]
    assert [(trace.name, list(trace.x)) for trace in scores] == [("peer 0", [1, 2]), ("peer 1", [1, 2])]
    assert scores[1].y.tolist() == pytest.approx(scores_of_rows[1::2])
    grafts = rounds[0].grafts
    expected = [alpha for receiver, alpha in zip(grafts["receiver"], grafts["alpha"], strict=True) if receiver == 1]
    (alphas,) = population.plot("alpha", peer=1).data
    assert np.ravel(alphas.z).tolist() == pytest.approx(expected)
    with pytest.raises(ModelError, match=r"^Population\.plot: .*peer 7"):
        population.plot("alpha", peer=7)
    page = population._repr_html_() + rounds[1]._repr_html_()
    for text in ("2 of 2", f"{population.outcome['test_accuracy']:.2%}".replace("%", " %"), "Round 2", "train_loss"):
        assert text in page


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def test_population_trains_grafts_and_returns_its_networks() -> None:
    population = make_population(optimizer=adam)
    rounds = list(population.run())
    assert [done.round for done in rounds] == [1, 2]
    assert set(rounds[0].grafts["site"]) == {"layers.0", "layers.3", "layers.8"}
    assert rounds[0].peers[0]["lr"] == pytest.approx(4e-3)
    best = population.network()
    assert not best.training
    assert same_bits(weights_of(best), weights_of(population.network(population.outcome["best_peer"])))
    images, labels = digits()[1].tensors
    with torch.no_grad():
        accuracy = (best(images).argmax(1) == labels).double().mean()
    assert population.outcome["test_accuracy"] == pytest.approx(float(accuracy))


class CountsOutside(torch.optim.SGD):
    """An optimizer whose steps depend on a count that is not in its state."""

    num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        self.param_groups[0]["momentum"] = 0.1 * self.num_steps
        return super().step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch.optim.Adafactor, "resume, got Adafactor: .*row_var"),  # its state has other shapes than the weights
        (CountsOutside, "to the bit, got CountsOutside"),
        (torch.optim.LBFGS, "train .*got LBFGS: .*closure"),
    ],
)
def test_function_whose_optimizer_cannot_resume_is_refused_at_once(make: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=rf"^optimizer: [^\n]*{message}[^\n]*$"):
        make_population(optimizer=partial(make, lr=0.01))


class Drifting(torch.optim.SGD):
    """An optimizer that moves all weights, also those without a gradient."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data += 1e-3
        return super().step()


def test_function_whose_optimizer_moves_dropped_filters_is_refused_with_methods_that_drop_them() -> None:
    make_population(optimizer=Drifting)
    with pytest.raises(SpaceError, match=r"^optimizer: .*drop.*Drifting"):
        make_population(optimizer=Drifting, pruning={})
    make_population(optimizer=adam, pruning={})


def test_function_for_the_optimizer_may_take_few_weights_of_any_shape() -> None:
    class Odd(Net):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)
            self.gain = nn.Parameter(torch.ones(()))
            self.frozen = nn.Parameter(torch.ones(3, 4, 5), requires_grad=False)

    def of_odd_ones(
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], parameters: Iterable[nn.Parameter]
    ) -> torch.optim.Optimizer:
        return make([weight for weight in parameters if weight.dim() in (0, 3)])

    with pytest.raises(SpaceError, match=r"^optimizer: .*drop.*Drifting"):
        make_population(Odd, optimizer=partial(of_odd_ones, Drifting), pruning={})
    population = make_population(Odd, optimizer=partial(of_odd_ones, torch.optim.Adam), pruning={})
    assert population.settings.pruning is not None


def test_networks_outlive_the_loop() -> None:
    population = make_population()
    for _ in population.run():
        within = weights_of(population.network(1))
        break
    assert same_bits(within, weights_of(population.network(1)))
    assert population.outcome == {}


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_ray_actors_give_the_same_bits_as_this_process() -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(user_parts)  # a running Ray cannot import modules of tests
    here, there = make_population(optimizer=adam), make_population(optimizer=adam, on_ray=True)
    rounds = list(here.run())  # with one thread, as conftest.py says and an actor of one core has
    assert [done.score for done in there.run()] == [done.score for done in rounds]
    assert there.outcome == here.outcome
    assert all(same_bits(weights_of(here.network(peer)), weights_of(there.network(peer))) for peer in (0, 1))


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3), {"lr": 0.05, "weight_decay": 1e-3}),
        (partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4), {"lr": 0.05}),
    ],
)
def test_torch_sgd_trains_like_the_built_in_one(make: Any, plain: dict[str, float]) -> None:
    """Up to rounding: torch adds in another order."""
    training = {"epochs": 1, "batch_size": 32, "precision": "float32"}
    one, other = make_population(optimizer=make, training=training), make_population(training=training | plain)
    first, second = (list(population.run())[-1] for population in (one, other))
    assert [row["train_loss"] for row in first.peers] == pytest.approx([row["train_loss"] for row in second.peers])


def test_named_optimizer_trains_like_the_same_one_by_a_function() -> None:
    training: dict[str, Any] = {"epochs": 1, "batch_size": 32, "precision": "float32"}
    named = training | {"lr": 0.01, "weight_decay": 0.1, "optimizer": {"name": "adamw", "betas": [0.8, 0.9]}}
    made = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    one, other = make_population(training=named), make_population(optimizer=made, training=training)
    list(one.run()), list(other.run())
    assert same_bits(weights_of(one.network(0)), weights_of(other.network(0)))


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer", {"name": "adam"}), ("decay_norm_and_bias", False), ("lr", 0.1)]
)
def test_function_for_the_optimizer_excludes_the_keys_that_it_sets(key: str, value: Any) -> None:
    with pytest.raises(SpaceError, match=rf"^training\.{key}: .*optimizer"):
        make_population(optimizer=adam, training={key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("weight_decay", 0.1), ("optimizer", {"name": "adam"}), ("optimizer.nesterov", True)]
)
def test_function_for_the_optimizer_excludes_peers_that_differ_in_what_it_sets(key: str, value: Any) -> None:
    with pytest.raises(SpaceError, match=rf"^population\.diversity: training\.{key} .*optimizer"):
        make_population(optimizer=adam, population={"num_peers": 2, "diversity": {f"training.{key}": [value]}})


def test_peers_with_one_function_for_the_optimizer_may_differ_in_the_learning_rate() -> None:
    diverse = {"num_peers": 2, "diversity": {"training.lr": [0.01, 0.02]}}
    rows = next(make_population(optimizer=adam, population=diverse).run()).peers
    assert [row["lr"] for row in rows] == [0.01, 0.02]


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        ({"name": "adamw", "beta": 0.9}, "training.optimizer.beta"),
        ({"name": "adamw", "eps": -1.0}, "training.optimizer"),
    ],
)
def test_wrong_argument_of_a_named_optimizer_is_refused_at_once(optimizer: dict[str, Any], key: str) -> None:
    with pytest.raises(SpaceError, match=rf"{key}: "):
        make_population(training={"optimizer": optimizer})


class Drawing(Dataset[Any]):
    """Items that draw from torch's generator when read, like transforms."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 4, 4), float(index)) + torch.rand(1, 4, 4) / 2, index % 2


class Slow(Drawing):
    """Takes a fifth of a second per item."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.2)
        return super().__getitem__(index)


def read(images: DatasetImages, seed: int) -> Tensor:
    return torch.cat([pixels for pixels, _ in images.training_batches(4, seed, CPU)])


def test_items_depend_on_the_seed_alone() -> None:
    here = read(DatasetImages(Drawing()), seed=1)
    state = torch.get_rng_state()
    assert torch.equal(here, read(DatasetImages(Drawing(), num_workers=2), seed=1))
    assert torch.equal(state, torch.get_rng_state())
    other = read(DatasetImages(Drawing()), seed=2)
    assert not torch.equal(here.floor(), other.floor())  # the order
    assert not torch.equal(here.sort(0).values, other.sort(0).values)  # the random numbers
    assert sorted(here.amin((1, 2, 3)).floor().tolist()) == list(range(10))


def test_last_batch_of_one_image_is_evaluated_but_not_trained_on() -> None:
    images = DatasetImages(Subset(Drawing(), range(9)))
    assert len(read(images, seed=0)) == 8
    assert sum(len(labels) for _, labels in images.evaluation_batches(4, CPU)) == 9


def test_items_have_draws_of_their_own() -> None:
    ((images, _),) = DatasetImages(Drawing()).evaluation_batches(10, CPU)
    assert len(images.frac().unique(dim=0)) == 10


def test_batches_are_channels_last_in_memory() -> None:
    images = TensorDataset(torch.rand(4, 3, 5, 5), torch.arange(4))
    for batch, _ in DatasetImages(images).evaluation_batches(2, CPU):
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_user_defined_images_are_erased_and_mixed() -> None:
    train, test = digits()
    augmentation = AugmentationSettings(erasing=1.0, mixup=1.0)
    splits, plain = (
        dataset_splits(train, test, test, classes="0123456789", val_fraction=0.1, seed=0, augmentation=settings)
        for settings in (augmentation, AugmentationSettings())
    )
    (images, targets), (original, labels) = (next(each.train.training_batches(300, 0, CPU)) for each in (splits, plain))
    assert (images != original).flatten(1).any(1).float().mean() > 0.9
    assert targets.shape == (300, 10)
    share = targets.gather(1, labels[:, None]).min()
    torch.testing.assert_close(targets.sum(1), torch.ones(300))
    assert 0 < share < 1
    population = make_population(augmentation={"erasing": 0.5, "cutmix": 1.0})
    assert len(list(population.run())) == population.settings.num_rounds


@pytest.mark.parametrize(("num_images", "num_val"), [(3, 1), (14, 1), (16, 2), (26, 3)])
def test_number_of_validation_images_is_rounded_and_not_0(num_images: int, num_val: int) -> None:
    train, test = digits()
    some = Subset(train, range(num_images))
    splits = dataset_splits(some, None, test, classes="0123456789", val_fraction=0.1, seed=0)
    assert (splits.train.num_images, splits.val.num_images) == (num_images - num_val, num_val)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_worker_that_reads_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_reader, "WORKER_LIMIT_S", 0.1)
    with pytest.raises(RuntimeError, match=r"0\.1 s"):
        read(DatasetImages(Slow(), num_workers=1), seed=0)


def test_validation_images_are_split_off_by_seed() -> None:
    train, test = digits()
    splits = [
        dataset_splits(train, None, test, classes="0123456789", val_fraction=0.2, seed=seed) for seed in (0, 0, 1)
    ]
    assert (splits[0].train.num_images, splits[0].val.num_images, splits[0].test.num_images) == (240, 60, 100)
    seen = [torch.cat([images for images, _ in each.val.evaluation_batches(60, CPU)]) for each in splits]
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
def test_restored_optimizer_continues_to_the_bit(make: Any) -> None:
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


def test_parameter_groups_keep_the_ratio_of_their_learning_rates() -> None:
    network = Net(10)

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        groups: list[dict[str, Any]] = [
            {"params": [next(iter(parameters))], "lr": 0.4},
            {"params": list(network.layers[8].parameters())},
        ]
        return torch.optim.SGD(groups, lr=0.1)

    optimizer = TorchOptimizer(dict(network.named_parameters()), make)
    optimizer.lr = 0.2
    assert optimizer.lr == 0.2
    assert [group["lr"] for group in optimizer._optimizer.param_groups] == [0.2, pytest.approx(0.05)]


@pytest.mark.parametrize("make", [None, adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
def test_momentum_can_be_read_changed_and_reset(make: Any) -> None:
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
    optimizer.reset()
    assert optimizer.state_dict() == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": None}, SpaceError, r"^classes: .*`classes`"),
        ({"val_fraction": 1.0}, SpaceError, r"^val_fraction: .*\(0, 1\), got 1\.0$"),
        ({"model": {"name": "resnet20"}}, SpaceError, "^model: "),
        ({"optimizer": adam, "training": {"lr": 0.1}}, SpaceError, r"^training\.lr: .*got both"),
        ({"graft": {"A": {"uniform": [0, 1]}}}, SpaceError, r"^[^\n]*got [^\n]*graft\.A"),
        ({"augmentation": {"policy": "randaugment"}}, DataError, r"^augmentation\.policy: .*none.*, got randaugment; "),
        ({"augmentation": {"color_jitter": 0.4}}, DataError, r"^augmentation\.color_jitter: .*0.*, got 0\.4; "),
        ({"graft": {"topology": "ring"}}, SpaceError, "graft.topology"),
        (
            {
                "network": lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)),
                "graft": {"sites": "conv_bn"},
            },
            ModelError,
            r"site, .*graft\.sites: all",
        ),
        ({"exchange": Pull, "graft": {}}, SpaceError, "graft and exchange"),
        ({"graft": {"alpha": lambda own, theirs: own * math.nan}}, SpaceError, r"^graft\.alpha: .*lambda.*finite"),
        (
            {"network": lambda num_classes: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))},
            ModelError,
            r"\(1, 8, 8\)",
        ),
        ({"network": lambda num_classes: Net(num_classes + 1)}, ModelError, r"10\).*got \(2, 11\)"),
        ({"network": Twice}, ModelError, "got tuple"),
        ({"network": OfLightning}, ModelError, "OfLightning'.*LightningModule.*training_step.*graftpop.Task"),
        ({"network": Net(10)}, ModelError, "^network: .*got a Net; "),
        (
            {"population": {"num_peers": 2, "diversity": {"augmentation.policy": ["none", "randaugment"]}}},
            DataError,
            r"^augmentation\.policy: ",
        ),
        ({"network": Typo}, ModelError, r"Typo'.*\(1, 8, 8\).*AttributeError: 'Typo' object has no attribute 'layer'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    options: dict[str, Any], error: type[GraftpopError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        make_population(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([(np.zeros((1, 8, 8)), 0)] * 3, r"\(input, label\).*got \('ndarray', 'int'\)"),
        ([torch.zeros(1, 8, 8)] * 3, "train.*got Tensor"),
        ([(torch.zeros(8, 8), 0)] * 3, "one shape"),
        ([(torch.zeros(1, 8, 8), torch.zeros(3))] * 3, r"\(input, label\).*got .*tensor \(3,\)"),
        ([], "train"),
        ([(torch.zeros(1, 9, 9), 0)] * 3, "one shape"),
        ([(torch.zeros(1, 8, 8), 0)], "2 images"),
        ([(torch.zeros(1, 8, 8), 0)] * 2, "2 images.* got 1 "),
    ],
)
def test_bad_items_are_refused(items: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        graftpop.Population(Net, items, digits()[1], classes="0123456789")


def test_names_of_classes_may_be_an_array() -> None:
    assert make_population(classes=np.arange(10)).settings.num_epochs == 2
    train, test = digits()
    named: Any = Subset(train, range(40))
    named.classes = np.arange(10)
    assert graftpop.Population(Net, named, test).outcome == {}


@pytest.mark.parametrize("key", ["erasing", "mixup", "cutmix"])
@pytest.mark.parametrize("inputs", [torch.zeros(20, 4), torch.zeros(20, 3, 8, 8, dtype=torch.int64)])
def test_inputs_that_are_no_images_are_neither_erased_nor_mixed(key: str, inputs: Tensor) -> None:
    items = TensorDataset(inputs, torch.arange(20) % 10)
    with pytest.raises(DataError, match=rf"^augmentation\.{key}: .*images"):
        graftpop.Population(Net, items, items, classes="0123456789", augmentation={key: 0.5})


def test_network_before_the_first_round_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^Population\.network: peer .*\[\].*got 0$"):
        make_population().network()


def test_trainable_refuses_a_space_with_domains(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("graft: {A: {uniform: [0.0, 1.0]}}\ndata: {name: digits}\n", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"^[^\n]*space\.yaml: [^\n]*got [^\n]*graft\.A[^\n]*param_space"):
        graftpop.trainable(space, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
