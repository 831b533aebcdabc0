"""One peer by itself: its row, exchange, teachers and predictions, against closed forms and plain training."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_makers import TwoSites
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from torch import Tensor, nn

from graftpop.data import load_splits
from graftpop.errors import PeerDiverged
from graftpop.metrics import ACCURACY
from graftpop.models.network_file import rebuilt_network, split_peer_file
from graftpop.peer.components import Components
from graftpop.peer.peer import Peer
from graftpop.rows import PeerRow
from graftpop.settings import Settings


def trained(peer: Peer, num_epochs: int = 1) -> PeerRow:
    row = peer.train(num_epochs)
    assert isinstance(row, dict)
    return row


def peer_with(make_network: Callable[[int], nn.Module] = TwoSites, make_optimizer: Any = None, **sections: Any) -> Peer:
    settings = make_settings(sections)
    return Peer(settings, 0, components=Components(make_network, lambda _, __: splits_of(settings), make_optimizer))


def splits_of(settings: Settings) -> Any:
    return load_splits(settings.data, seed=settings.seed)


def with_zero_filters(num_classes: int) -> nn.Module:
    """One filter of the first site and three of the second are zero."""
    network = TwoSites(num_classes)
    with torch.no_grad():
        network.conv1.weight[0] = 0
        network.conv2.weight[:3] = 0
    return network


class Standstill(torch.optim.Optimizer):
    """An optimizer that leaves the weights as they are."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> Any:
        return None


class Overflow(Standstill):
    """An optimizer that makes the weights infinite."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(torch.inf)


class OutputsNan(TwoSites):
    """A network without a finite output while it trains."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (torch.nan if self.training else 1.0)


# --- the row of a round ---


def test_row_has_the_metrics_of_the_last_epoch() -> None:
    settings = make_settings(training={"epochs": 4, "batch_size": 16})
    at_once, by_epoch = Peer(settings, 0), Peer(settings, 0)
    row, (first, *_, last) = trained(at_once, 4), [trained(by_epoch) for _ in range(4)]
    for name in ("epoch", "lr", "train_loss", "train_accuracy", "val_loss"):
        assert row[name] == last[name] != first[name]
    assert row["train_images"] == 4 * first["train_images"]


def test_row_has_the_learning_rate_of_weight_averaging() -> None:
    peer = Peer(make_settings(training={"epochs": 4}, swa={"start": 0.5, "lr": 0.02}), 0)
    assert [trained(peer)["lr"] for _ in range(4)][2:] == [0.02, 0.02]


def test_row_sums_invalid_filters_over_sites() -> None:
    assert trained(peer_with(with_zero_filters, Standstill))["num_invalid_filters"] == 1 + 3


def test_hooks_leave_the_first_epoch_alone() -> None:
    noisy = Peer(make_settings(graft={"source": "noise", "threshold": 1e6}), 0)
    plain = Peer(make_settings(), 0)
    assert trained(noisy)["train_loss"] == trained(plain)["train_loss"]
    assert trained(noisy)["train_loss"] != trained(plain)["train_loss"]


@pytest.mark.parametrize(
    ("make_network", "make_optimizer"),
    [(TwoSites, Overflow), (OutputsNan, Standstill)],
    ids=["weights not finite", "loss not finite"],
)
def test_divergence_is_noticed_in_weights_and_loss(make_network: Any, make_optimizer: Any) -> None:
    with pytest.raises(PeerDiverged, match=r"^peer 0: diverged in epoch 1.*training\.lr"):
        peer_with(make_network, make_optimizer, training={"batch_size": 256}).train(1)  # one step


@pytest.mark.parametrize(("num_epochs", "epoch"), [(1, 1), (3, 3)])
def test_reseeded_peer_has_the_donors_weights_at_the_end_of_the_round(num_epochs: int, epoch: int) -> None:
    settings = make_settings(training={"epochs": 4})
    receiver, donor = Peer(settings, 0), Peer(settings, 1)
    trained(receiver)
    expected = trained(donor)
    row = receiver.reseed(donor.publish(), num_epochs)
    assert row["epoch"] == epoch
    assert (row["val_loss"], ACCURACY.value_of(row)) == (expected["val_loss"], ACCURACY.value_of(expected))
    assert np.array_equal(receiver.publish().weights, donor.publish().weights)


# --- exchange ---


@pytest.mark.parametrize("level", ["layer", "filter"])
def test_graft_records_one_value_per_site_before_and_after(level: str) -> None:
    graft = {"level": level, "alpha": 0.5, "sites": "conv_bn"}
    receiver = peer_with(with_zero_filters, Standstill, graft=graft)
    donor = peer_with(TwoSites, Standstill, graft=graft)
    trained(receiver), trained(donor)
    columns: dict[str, Any] = {**(receiver.exchange(donor.publish())["columns"] or {})}
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(columns, 2)
    assert columns["site"] == ["conv1", "conv2"]
    assert columns["alpha"] == [0.5, 0.5]
    assert (columns["num_invalid_before"], columns["num_invalid_after"]) == ([1, 3], [0, 0])


# --- teachers ---


def teachers_s(row: PeerRow, own_images: int) -> float:
    """Return the seconds of a row that belong to teachers."""
    return row["train_s"] - own_images / row["images_per_s"]


def test_row_counts_images_and_seconds_of_every_teacher() -> None:
    teachers = [{"model": "python:network_makers.TwoSites", "epochs": epochs} for epochs in (1, 2)]
    peer = Peer(make_settings(distillation={"teachers": teachers}), 0)
    peer.train_teachers(0, 1)  # repeated after the loss of another peer in lockstep
    peer.set_teachers(peer.train_teachers(0, 1))
    plain = trained(Peer(make_settings(), 0))
    row, own = trained(peer), plain["train_images"]
    assert row["train_images"] == (1 + 1 + 2) * own
    assert teachers_s(row, own) > 0.01 * row["train_s"]
    assert teachers_s(trained(peer), own) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("method", ["distillation", "mutual"])
def test_gradient_of_teachers_follows_temperature_and_weight(method: str) -> None:
    """The first step moves the weights by the loss's gradient, in which the term's gradient has its weight."""
    one_step = {"batch_size": 256}
    other = Peer(make_settings(training=one_step), 1)
    trained(other)
    teachers: dict[str, Any] = {"teachers": [{"model": "python:network_makers.TwoSites", "epochs": 1}]}
    section: dict[str, Any] = teachers if method == "distillation" else {"exchange": "snapshots"}

    def step(**options: float) -> Tensor:
        peer = Peer(make_settings(training=one_step, **{method: section | options}), 0)
        if method == "distillation":
            peer.set_teachers(peer.train_teachers(0))
        else:
            peer.set_snapshot_teachers(other.publish())
        trained(peer)
        return torch.tensor(peer.publish().weights)

    plain = step(weight=0.0)
    moved = {T: step(weight=1.0, temperature=T) - plain for T in (1.0, 2.0, 8.0)}
    assert torch.allclose(step(weight=3.0, temperature=8.0) - plain, 3 * moved[8.0], atol=1e-6)
    for T in (1.0, 2.0):
        assert not torch.allclose(moved[8.0], moved[T], atol=1e-5)


# --- output ---


def soup_of(kind: str, *peers: Peer) -> dict[str, Tensor]:
    """Return the network of a peer that made a soup of some peers' weights."""
    maker = Peer(make_settings(), 9)
    maker.make_soup(kind, *(peer.publish() for peer in peers))
    return network_of(maker)


def network_of(peer: Peer) -> dict[str, Tensor]:
    return tensors_from_bytes(split_peer_file(peer.save())[0])


@pytest.fixture(scope="module")
def good_and_bad() -> tuple[Peer, Peer]:
    """A trained peer, and one whose weights would lower the accuracy of a soup with it."""
    settings = make_settings(training={"epochs": 12, "batch_size": 16})
    good, bad = Peer(settings, 0), Peer(settings, 1)
    assert ACCURACY.value_of(trained(good, 11)) > ACCURACY.value_of(trained(bad)) + 0.1
    return good, bad


LEARNED = ("conv1.weight", "bn2.bias", "classifier.weight")


def test_uniform_soup_is_the_mean_with_statistics_anew(good_and_bad: tuple[Peer, Peer]) -> None:
    soup, (one, other) = soup_of("uniform_soup", *good_and_bad), map(network_of, good_and_bad)
    assert all(torch.allclose(soup[name], (one[name] + other[name]) / 2) for name in LEARNED)
    mean_variance = (one["bn2.running_var"] + other["bn2.running_var"]) / 2
    assert not torch.allclose(soup["bn2.running_var"], mean_variance, rtol=0.01)


def test_greedy_soup_leaves_out_a_network_that_lowers_accuracy(good_and_bad: tuple[Peer, Peer]) -> None:
    soup, best = soup_of("greedy_soup", *good_and_bad), network_of(good_and_bad[0])
    assert all(torch.equal(soup[name], best[name]) for name in LEARNED)


def test_training_logs_a_line_per_round(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(make_settings(), 1)
    with caplog.at_level(logging.INFO, "graftpop"):
        row = peer.train(1)
    assert isinstance(row, dict)
    assert len(caplog.messages) == 1
    for text in ("peer 1", "epoch 1", f"{row['train_loss']:.4g}", "validation accuracy"):
        assert text in caplog.messages[0]


def test_saved_peer_without_dropped_filters_is_the_smaller_network() -> None:
    peer = Peer(make_settings(pruning={"preset": "hard"}), 0)
    assert peer.model_card().removed_filters is None
    trained(peer, 2)
    cost = peer.cost()
    assert peer.model_card().removed_filters == cost["removed_filters"] > 0
    assert cost["parameters_left"] < cost["parameters"]
    assert cost["flops_left"] < cost["flops"]
    assert 0 < cost["latency_1_left_ms"] < 10 * cost["latency_1_ms"] < 10_000
    assert 0 < cost["latency_128_left_ms"] < 10 * cost["latency_128_ms"] < 100_000
    state = network_of(peer)
    num_statistics = sum(tensor.numel() for name, tensor in state.items() if "running" in name or "num_" in name)
    assert sum(tensor.numel() for tensor in state.values()) - num_statistics == cost["parameters_left"]


def test_loaded_peer_has_the_entropies_and_teachers_cost_of_the_saved_one() -> None:
    settings = make_settings(
        distillation={"teachers": [{"model": "python:network_makers.TwoSites", "epochs": 1}]}, graft={}
    )
    saved, loaded = Peer(settings, 0), Peer(settings, 1)
    teachers = saved.train_teachers(0)
    loaded.load(saved.save())
    assert np.array_equal(loaded.publish().entropies, saved.publish().entropies)
    for peer in (saved, loaded):
        peer.set_teachers(teachers)
    rows = trained(loaded), trained(saved)
    assert rows[0]["train_images"] == rows[1]["train_images"]
    own = trained(saved)["train_images"]
    assert teachers_s(rows[1], own) > 0
    assert teachers_s(rows[0], own) == pytest.approx(teachers_s(rows[1], own))


# --- predictions ---


def test_test_set_is_predicted_in_float32_and_validation_in_the_training_precision() -> None:
    settings = make_settings(training={"precision": "bfloat16"})
    peer = Peer(settings, 0)
    row = trained(peer)
    weights, card = split_peer_file(peer.save())
    network, splits = rebuilt_network(card, tensors_from_bytes(weights), "a peer"), splits_of(settings)

    def largest_difference(split: str) -> float:
        batches = getattr(splits, split).evaluation_batches(1000, torch.device("cpu"))
        with torch.no_grad():
            exact = torch.cat([network(images) for images, _ in batches]).softmax(1)
        return float(np.abs(peer.predict(split)[0] - exact.numpy()).max())

    assert largest_difference("test") < 1e-5
    assert largest_difference("val") > 1e-4
    probabilities, labels = map(torch.from_numpy, peer.predict("val"))
    assert float(F.nll_loss(probabilities.log(), labels)) == pytest.approx(row["val_loss"], abs=1e-6)


def test_ensemble_is_right_where_the_mean_probability_is() -> None:
    labels = np.array([1, 1])
    unsure, sure = (np.array([[1 - p, p], [1 - p, p]], np.float32) for p in (0.4, 0.9))
    peer = Peer(make_settings(), 0)
    assert peer.ensemble_scores((unsure, labels))["accuracy"] == 0.0
    assert peer.ensemble_scores((unsure, labels), (sure, labels))["accuracy"] == 1.0


def test_greedy_soup_is_validated_in_the_training_precision() -> None:
    kinds: list[torch.dtype] = []

    class RecordsKinds(TwoSites):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            if not self.training:
                kinds.append(logits.dtype)
            return logits

    cook = peer_with(RecordsKinds, training={"precision": "bfloat16"})
    snapshot = cook.publish()
    kinds.clear()
    cook.make_soup("greedy_soup", snapshot, snapshot)
    assert set(kinds) == {torch.bfloat16}
