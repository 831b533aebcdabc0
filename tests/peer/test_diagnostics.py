"""Diagnostics of a peer and of pairs, against loops over filters, weights and images."""

import json
import math
from pathlib import Path
from typing import Any

import graft_makers
import numpy as np
import pytest
import torch
from graft_makers import conv_bn_sites
from network_makers import make_learner, seeded_network, trained_looking
from safetensors.torch import save_file
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.peer.diagnostics import Diagnostics, compare_pair, valid_filters
from graftpop.settings import DiagnosticsSettings
from graftpop.sites import find_sites
from graftpop.training.filters import site_filters
from graftpop.training.snapshot import Snapshot

SHAPE = (3, 8, 8)
CONVS = ["conv1", *(f"layer{layer}.0.conv{conv}" for layer in (1, 2, 3) for conv in (1, 2))]
ENTROPIES = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)


def baseline(folder: Path, network: nn.Module, name: str = "resnet8") -> str:
    """Write a network as a run's best/."""
    card = {"model": name, "num_classes": 10, "image_shape": SHAPE, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    (folder / "config.json").write_text(json.dumps(card))
    save_file(network.state_dict(), folder / "model.safetensors")
    return str(folder)


def measures(network: nn.Module, **settings: Any) -> Diagnostics:
    filters = site_filters(make_learner(network), find_sites(network, SHAPE, "network", "conv_bn"))
    return Diagnostics(filters, DiagnosticsSettings.model_validate(settings), "conv_bn")


def norms(network: nn.Module) -> list[float]:
    """Return the L1 norm of every filter of every site, one after the other."""
    return [
        math.fsum(abs(value) for value in row.flatten().tolist())
        for conv in CONVS
        for row in network.get_parameter(f"{conv}.weight").detach()
    ]


def with_small_filters(network: nn.Module) -> nn.Module:
    """Shrink every third filter of every site by its own factor, so that thresholds part them."""
    with torch.no_grad():
        for conv in CONVS:
            weight = network.get_parameter(f"{conv}.weight")
            for index in range(0, len(weight), 3):
                weight[index] *= 10.0 ** -(1 + index % 4)
    return network


# one peer


def test_default_diagnostics_measure_information_only() -> None:
    measured = measures(seeded_network("resnet8")).measure(ENTROPIES)
    assert measured == [("network_information_nats", pytest.approx(math.fsum(ENTROPIES.tolist())))]


def test_filters_below_each_threshold_are_counted_over_all_sites() -> None:
    network = with_small_filters(trained_looking("resnet8", 1))
    found = dict(measures(network, thresholds=[0.001, 0.1, 1.0, 25.0, 1e6]).measure(ENTROPIES))
    every = norms(network)
    expected = {
        name: float(sum(norm < limit for norm in every))
        for name, limit in [
            ("num_filters_below_0.001", 0.001),
            ("num_filters_below_0.1", 0.1),
            ("num_filters_below_1", 1.0),
            ("num_filters_below_25", 25.0),
            ("num_filters_below_1e+06", 1e6),
        ]
    }
    assert {name: value for name, value in found.items() if name != "network_information_nats"} == expected
    assert len(set(expected.values())) == 5


@pytest.mark.parametrize("threshold", [0.1, 1.0])
def test_density_follows_the_baselines_valid_filters(tmp_path: Path, threshold: float) -> None:
    reference = with_small_filters(trained_looking("resnet8", 1))
    network = trained_looking("resnet8", 2)
    one = measures(network, density_of=baseline(tmp_path, reference), density_threshold=threshold)
    valid = [index for index, norm in enumerate(norms(reference)) if norm >= threshold]
    for _ in range(2):  # the current weights, over the baseline's filters
        every = norms(network)
        invalid = [index for index in range(len(every)) if index not in valid]
        assert 0 < len(invalid) < len(valid)
        found = dict(one.measure(ENTROPIES))
        assert found["density_valid"] == pytest.approx(sum(every[index] for index in valid) / len(valid), rel=1e-6)
        assert found["density_invalid"] == pytest.approx(
            sum(every[index] for index in invalid) / len(invalid), rel=1e-6
        )
        with torch.no_grad():
            network.get_parameter("conv1.weight")[:4] *= 3.0


def test_filter_at_the_threshold_is_valid(tmp_path: Path) -> None:
    reference = seeded_network("resnet8")
    with torch.no_grad():
        reference.get_parameter("conv1.weight").fill_(0.25)  # a norm of 27 / 4, exact in float32
    sites = find_sites(reference, SHAPE, "resnet8", "conv_bn")
    weights = {site.layer: reference.get_parameter(f"{site.layer}.weight") for site in sites}
    assert valid_filters(baseline(tmp_path, reference), weights, 27 / 4, "conv_bn")[0].all()


def test_density_over_no_filter_is_omitted(tmp_path: Path) -> None:
    folder = baseline(tmp_path, seeded_network("resnet8"))
    low, high = (
        dict(measures(seeded_network("resnet8"), density_of=folder, density_threshold=threshold).measure(ENTROPIES))
        for threshold in (1e-9, 1e9)
    )
    assert low.keys() == {"network_information_nats", "density_valid"}
    assert high.keys() == {"network_information_nats", "density_invalid"}
    assert low["density_valid"] == high["density_invalid"]


@pytest.mark.parametrize("other", ["mobilenetv2", "resnet20"])
def test_baseline_of_another_architecture_is_refused(tmp_path: Path, other: str) -> None:
    """A deeper network has all the filters of a shallower one, by name and shape, and more."""
    folder = baseline(tmp_path, seeded_network(other), other)
    with pytest.raises(CheckpointError, match=r"^diagnostics\.density_of: .*architecture, got .*best/"):
        measures(seeded_network("resnet8"), density_of=folder)


def test_shallower_baseline_is_refused(tmp_path: Path) -> None:
    folder = baseline(tmp_path, seeded_network("resnet8"))
    with pytest.raises(CheckpointError, match=r"got another layer1\.1\.conv1;"):
        measures(seeded_network("resnet20"), density_of=folder)


def test_wider_baseline_is_refused(tmp_path: Path) -> None:
    network = seeded_network("resnet8")
    sites = find_sites(network, SHAPE, "resnet8", "conv_bn")
    wider = {site.layer: torch.ones(65, *network.get_parameter(f"{site.layer}.weight").shape[1:]) for site in sites}
    with pytest.raises(CheckpointError, match=r"^diagnostics\.density_of: .*got another conv1;"):
        valid_filters(baseline(tmp_path, network), wider, 1.0, "conv_bn")


def test_missing_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^diagnostics\.density_of: .*no_such_run"):
        measures(seeded_network("resnet8"), density_of=str(tmp_path / "no_such_run"))


# pairs


def snapshot_of(network: nn.Module, predicted: Tensor) -> Snapshot:
    return graft_makers.snapshot_of(make_learner(network).state, conv_bn_sites(network), predicted=predicted)


def test_pair_is_compared_by_weights_and_predictions() -> None:
    networks = [trained_looking("resnet8", seed) for seed in (1, 2)]
    predicted = [torch.tensor([0, 1, 2, 3, 4, 5, 6]), torch.tensor([0, 2, 2, 3, 1, 5, 0])]
    own, other = map(snapshot_of, networks, predicted)
    states = [
        [tensor.double() for tensor in network.state_dict().values() if tensor.is_floating_point()]
        for network in networks
    ]
    expected = math.sqrt(math.fsum(float(((a - b) ** 2).sum()) for a, b in zip(*states, strict=True)))
    assert compare_pair(own, other) == [
        ("distance", pytest.approx(expected, rel=1e-6)),
        ("disagreement", pytest.approx(3 / 7)),
    ]
    assert compare_pair(other, own) == [
        ("distance", pytest.approx(expected, rel=1e-6)),
        ("disagreement", pytest.approx(3 / 7)),
    ]
    assert compare_pair(own, own) == [("distance", 0.0), ("disagreement", 0.0)]


def test_read_only_snapshots_are_compared() -> None:
    own = snapshot_of(trained_looking("resnet8", 1), torch.arange(4))
    before = own.weights.copy()
    for array in (own.weights, own.predicted):
        array.setflags(write=False)
    assert compare_pair(own, own) == [("distance", 0.0), ("disagreement", 0.0)]
    assert np.array_equal(own.weights, before)
