"""Exchanges between real networks, against references that loop over the entries of the state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import references
import torch
from graft_makers import alpha_of, conv_bn_sites, graft_, make_grafting, published, snapshot_of
from network_makers import copied, make_learner, same_bits, seeded_network, seeded_small_net, trained_looking
from space_makers import make_settings
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.exchange.assignment import Assignment, released_assignment, site_assignment
from graftpop.exchange.grafting import Grafting, site_measures
from graftpop.exchange.rule import ExchangeContext
from graftpop.exchange.snapshots import copy_from_, mean_snapshot
from graftpop.sites import find_sites
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import ALL_OTHERS, Snapshot

A, C = 0.4, 500.0


def grafting(network: nn.Module, **settings: Any) -> Grafting:
    return make_grafting(FlatState(network), conv_bn_sites(network, 32), **{"A": A, "c": C, **settings})


def exchange(receiver: nn.Module, donor: nn.Module, **settings: Any) -> tuple[Grafting, Snapshot, list[float]]:
    """Graft the donor into the receiver; return its grafting, the donor's snapshot and alpha."""
    ours, snapshot = grafting(receiver, **settings), published(grafting(donor, **settings))
    return ours, snapshot, graft_(ours, snapshot).tolist()


def site_names(grafting: Grafting) -> tuple[str, ...]:
    return grafting.context.measures.site_names


def entropies(grafting: Grafting) -> Tensor:
    return grafting.context.measures.entropies


def blend_(grafting: Grafting, alpha: Tensor, snapshot: Snapshot) -> None:
    grafting.graft_(alpha, snapshot.weights_on(torch.device("cpu")))


def site_of(assignment: Assignment) -> dict[str, int]:
    """Return the site of each tensor; assert that none has two."""
    sites = {assigned.part.tensor: assigned.site for assigned in assignment.parts}
    assert len(sites) == len(assignment.parts)
    return sites


def float_names(network: nn.Module) -> list[str]:
    return [name for name, tensor in network.state_dict().items() if tensor.is_floating_point()]


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2"])
def test_exchange_equals_the_formula_site_by_site(name: str) -> None:
    receiver, donor = trained_looking(name, 1), trained_looking(name, 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    sites = [(site.layer, site.norm or "") for site in conv_bn_sites(receiver, 32)]
    own, given = (
        [references.entropy(state[f"{conv}.weight"].flatten()) for conv, _ in sites] for state in (ours, theirs)
    )

    graft, snapshot, alpha = exchange(receiver, donor)
    measured = entropies(grafting(trained_looking(name, 1))).tolist()
    assert site_names(graft) == tuple(conv for conv, _ in sites)
    assert measured == pytest.approx(own, abs=5e-5)  # where rounding moves a weight over an edge, by 1 / numel
    assert snapshot.entropies.tolist() == pytest.approx(given, abs=5e-5)
    expected_alpha = [
        references.adaptive_alpha(*pair, A=A, c=C) for pair in zip(measured, snapshot.entropies.tolist(), strict=True)
    ]
    assert alpha == pytest.approx(expected_alpha, abs=1e-12)
    expected = references.site_graft(ours, theirs, alpha, sites)
    assert len(set(alpha)) > 5
    for key, value in receiver.state_dict().items():
        assert np.allclose(value.double().numpy(), expected[key], rtol=1e-6, atol=1e-6), key
    assert same_bits(donor.state_dict(), theirs)


def test_entries_without_a_site_follow_the_last_one() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    graft, snapshot, _ = exchange(receiver, donor, alpha=0.5)
    receiver.load_state_dict(ours)
    alpha = torch.linspace(0, 1, len(site_names(graft)), dtype=torch.float64)
    blend_(graft, alpha, snapshot)
    grafted = receiver.state_dict()
    for key, site in [
        ("bn1.weight", "conv1"),
        ("bn1.bias", "conv1"),
        ("layer2.0.bn1.running_mean", "layer2.0.conv1"),
        ("layer2.0.bn2.running_var", "layer2.0.conv2"),
        ("layer3.0.bn2.bias", "layer3.0.conv2"),
        ("linear.weight", "layer3.0.conv2"),
        ("linear.bias", "layer3.0.conv2"),
    ]:
        share = alpha[site_names(graft).index(site)].item()
        assert torch.allclose(grafted[key], share * ours[key] + (1 - share) * theirs[key], atol=1e-6), key
    assert same_bits(
        {key: grafted[key] for key in ours if "num_batches" in key},
        {key: ours[key] for key in ours if "num_batches" in key},
    )


def test_exchange_leaves_identical_peers_unchanged() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 1)
    before = copied(receiver.state_dict())
    _, _, alpha = exchange(receiver, donor)
    assert alpha == [0.5] * 7
    assert same_bits(receiver.state_dict(), before)


@pytest.mark.parametrize(("alpha", "share"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_fixed_alpha_keeps_replaces_or_averages_every_float(alpha: float, share: float) -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    _, _, alphas = exchange(receiver, donor, alpha=alpha)
    grafted = receiver.state_dict()
    assert alphas == [alpha] * 7
    for name in float_names(receiver):
        expected = {1.0: ours[name], 0.0: theirs[name]}.get(share, (ours[name] + theirs[name]) / 2)
        assert (
            torch.equal(grafted[name], expected) if share != 0.5 else torch.allclose(grafted[name], expected, atol=1e-6)
        ), name


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2"])
def test_compat_reproduces_the_released_code_to_the_bit(name: str) -> None:
    receiver, donor = trained_looking(name, 1), trained_looking(name, 2)
    reference, theirs = trained_looking(name, 1), copied(donor.state_dict())
    own = {
        f"{key}.weight": references.released_entropy(module.weight.detach())
        for key, module in receiver.named_modules()
        if isinstance(module, nn.Conv2d) and "conv" in key
    }
    expected = references.released_graft(reference, theirs, A, C)

    graft, _, alpha = exchange(receiver, donor, compat="released_code")
    untouched = grafting(trained_looking(name, 1), compat="released_code")
    assert [f"{site}.weight" for site in site_names(graft)] == list(expected) == list(own)
    assert entropies(untouched).tolist() == list(own.values())
    assert alpha == list(expected.values())
    assert len(set(alpha)) > 3
    assert same_bits(receiver.state_dict(), reference.state_dict())


def test_compat_blends_and_truncates_num_batches_tracked() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    receiver.get_buffer("bn1.num_batches_tracked").fill_(10)
    donor.get_buffer("bn1.num_batches_tracked").fill_(15)
    exchange(receiver, donor, compat="released_code", alpha=0.5)
    assert receiver.get_buffer("bn1.num_batches_tracked").item() == 12


def test_compat_measures_biases_separately() -> None:
    class WithBias(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            generator = torch.Generator().manual_seed(seed)
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.bn1(self.conv1(images)).mean((2, 3))

    receiver, donor, reference = WithBias(1), WithBias(2), WithBias(1)
    expected = references.released_graft(reference, donor.state_dict(), A, C)
    graft, _, alpha = exchange(receiver, donor, compat="released_code")
    assert site_names(graft) == ("conv1", "conv1.bias")
    assert alpha == [expected["conv1.weight"], expected["conv1.bias"]]
    found = graft.context.measures.num_invalid_in(graft.weights).tolist()
    assert found == [0, int((receiver.get_parameter("conv1.bias").abs() < 0.1).sum())]
    assert same_bits(receiver.state_dict(), reference.state_dict())


def test_compat_mobilenetv2_shortcuts_take_the_preceding_alpha() -> None:
    """Their convolutions have no "conv" in their names; by the sites of the graph they have their own alpha."""
    network = seeded_network("mobilenetv2")
    state = FlatState(network)
    released, ours = released_assignment(state), site_assignment(state, conv_bn_sites(network, 32))
    released_site, our_site = site_of(released), site_of(ours)
    for layer in (0, 1, 10, 16):
        convolution, norm = f"layers.{layer}.shortcut.0.weight", f"layers.{layer}.shortcut.1.weight"
        before = f"layers.{layer}.conv3.weight"
        assert released_site[convolution] == released_site[norm] == released_site[before]
        assert our_site[convolution] == our_site[norm] == our_site[before] + 1
        assert ours.weights[our_site[convolution]].part.tensor == convolution
    assert (len(released.site_names), len(ours.site_names)) == (53, 57)


def test_compat_refuses_a_first_name_without_conv() -> None:
    with pytest.raises(
        ModelError,
        match=r"graft\.compat: .* 'conv' in its name, got 'features\.0\.weight'; choose "
        r"compat: none",
    ):
        released_assignment(FlatState(seeded_network("vgg16")))


def test_convolution_without_batchnorm_takes_the_alpha_of_the_preceding_site() -> None:
    network = nn.Sequential(
        nn.Linear(1, 1),
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
    )
    sites = find_sites(network[1:], (3, 8, 8), "network", "conv_bn")  # modules keep their names
    assert [(site.layer, site.norm) for site in sites] == [("1", "2"), ("5", "6")]
    of_module = {
        int(name.partition(".")[0]): site for name, site in site_of(site_assignment(FlatState(network), sites)).items()
    }
    assert of_module == {
        0: 0,
        1: 0,
        2: 0,
        3: 0,
        5: 1,
        6: 1,
        7: 1,
    }  # module 4 has no weights; module 0 is before any site


def test_batchnorm_follows_its_convolution_wherever_it_is_registered() -> None:
    class NormsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.of_second, self.of_first = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.classifier = nn.Linear(4, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.of_second(self.second(self.of_first(self.first(images))))
            return self.classifier(features.mean((2, 3)))

    network = NormsLast()
    assignment = site_assignment(FlatState(network), conv_bn_sites(network))
    of_module = {name.partition(".")[0]: site for name, site in site_of(assignment).items()}
    assert of_module == {"first": 0, "second": 1, "of_second": 1, "of_first": 0, "classifier": 1}


def test_graft_keeps_momentum() -> None:
    receiver, donor = make_learner(seeded_small_net(1)), make_learner(seeded_small_net(2))
    for one in (receiver, donor):
        one.train_epoch()
    before = copied(receiver.state_dict())
    exchange(receiver.network, donor.network)
    after = receiver.state_dict()
    momenta = [name for name in after if name.startswith("momentum/")]
    assert len(momenta) == 5
    assert all(torch.equal(after[name], before[name]) for name in momenta)
    assert not torch.equal(after["network/0.weight"], before["network/0.weight"])


def test_training_continues_from_the_grafted_weights() -> None:
    one = make_learner(seeded_small_net(1))
    graft = make_grafting(one.state, conv_bn_sites(one.network), alpha=0.0)
    other = make_learner(seeded_small_net(2))
    blend_(graft, torch.zeros(1, dtype=torch.float64), snapshot_of(other.state, conv_bn_sites(other.network)))
    one.train_epoch()
    other.train_epoch()
    assert same_bits(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("compat", ["none", "released_code"])
def test_read_only_snapshot_is_grafted_without_a_warning(compat: str) -> None:
    """Ray returns read-only arrays in shared memory."""
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = grafting(receiver, compat=compat), grafting(donor, compat=compat)
    snapshot = published(theirs)
    for array in (snapshot.weights, snapshot.integers, snapshot.entropies):
        array.setflags(write=False)
    before = snapshot.weights.copy()
    torch.set_warn_always(True)  # or only the first warning of the process would be seen
    try:
        blend_(ours, torch.zeros(7, dtype=torch.float64), snapshot)
    finally:
        torch.set_warn_always(False)
    assert np.array_equal(snapshot.weights, before)
    assert np.array_equal(published(ours).weights, before)


def test_entropies_are_measured_without_graft_settings() -> None:
    network = trained_looking("resnet8", 1)
    state = FlatState(network)
    measures = site_measures(state, conv_bn_sites(network, 32), None)
    assert measures.site_names == ("conv1", *(f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2)))
    expected = [references.entropy(state[f"{site}.weight"].flatten()) for site in measures.site_names]
    assert measures.entropies.tolist() == pytest.approx(expected, abs=1e-12)


def test_invalid_filters_are_counted_site_by_site() -> None:
    network = trained_looking("resnet8", 1)
    with torch.no_grad():
        network.get_parameter("layer1.0.conv2.weight")[:5] *= 1e-6
    assert grafting(network).context.measures.num_invalid_filters.tolist() == [0, 0, 5, 0, 0, 0, 0]


def test_entropies_use_the_num_bins_of_the_settings() -> None:
    network = trained_looking("resnet8", 1)
    assert entropies(grafting(network, num_bins=2)).max() <= np.log(2)
    assert entropies(grafting(network, num_bins=100)).min() > np.log(10)


# filter level, the L1 norm, and the mean of several donors


def slow_alpha_of_filters(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], criterion: str, c: float = C
) -> dict[str, list[float]]:
    """Return every filter's alpha, from its own score and the donor's, by the names of the convolutions."""
    score: Callable[[Tensor], float] = {
        "entropy": lambda row: references.entropy(row.flatten()),
        "l1": lambda row: float(row.double().abs().sum()),
    }[criterion]
    return {
        conv: [
            references.adaptive_alpha(score(one), score(other), A=A, c=c)
            for one, other in zip(ours[f"{conv}.weight"], theirs[f"{conv}.weight"], strict=True)
        ]
        for conv, _ in RESNET8
    }


RESNET8 = [
    ("conv1", "bn1"),
    *((f"layer{layer}.0.conv{place}", f"layer{layer}.0.bn{place}") for layer in (1, 2, 3) for place in (1, 2)),
]


@pytest.mark.parametrize("criterion", ["entropy", "l1"])
def test_filter_level_uses_one_alpha_per_filter(criterion: str) -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    c = {"entropy": 5.0, "l1": 0.5}[criterion]  # so that alpha takes all values between its bounds
    alpha_of = slow_alpha_of_filters(ours, theirs, criterion, c)
    _, _, alpha = exchange(receiver, donor, level="filter", criterion=criterion, c=c)
    grafted = receiver.state_dict()
    for conv, norm in RESNET8:
        for key in (f"{conv}.weight", *(f"{norm}.{key}" for key in ("weight", "bias", "running_mean", "running_var"))):
            for index, share in enumerate(alpha_of[conv]):
                expected = share * ours[key][index].double() + (1 - share) * theirs[key][index].double()
                assert torch.allclose(grafted[key][index].double(), expected, atol=2e-5), (key, index)
    means = [float(np.mean(shares)) for shares in alpha_of.values()]
    for key in ("linear.weight", "linear.bias"):
        expected = means[-1] * ours[key].double() + (1 - means[-1]) * theirs[key].double()
        assert torch.allclose(grafted[key].double(), expected, atol=2e-5), key
    every = [share for shares in alpha_of.values() for share in shares]
    assert alpha == pytest.approx(means + every, abs=1e-4)
    assert max(every) - min(every) > 0.2
    assert same_bits(
        {key: grafted[key] for key in ours if "num_batches" in key},
        {key: ours[key] for key in ours if "num_batches" in key},
    )
    assert same_bits(donor.state_dict(), theirs)


def test_filter_level_uses_the_num_bins_of_the_settings() -> None:
    receiver, donor = seeded_small_net(1), seeded_small_net(2)
    pair = [
        make_grafting(FlatState(network), conv_bn_sites(network), A=A, c=1.0, level="filter", num_bins=4)
        for network in (receiver, donor)
    ]
    _, *found = alpha_of(pair[0], published(pair[1])).tolist()
    weights = zip(receiver.get_parameter("0.weight"), donor.get_parameter("0.weight"), strict=True)
    own_and_given = [[references.entropy(row.detach().flatten(), 4) for row in rows] for rows in weights]
    expected = [references.adaptive_alpha(own, given, A=A, c=1.0) for own, given in own_and_given]
    assert found == pytest.approx(expected, abs=1e-6)


def test_filter_level_biases_follow_their_filters() -> None:
    def network(seed: int) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(3, 6, 3),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 4, 1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 10),
            )

    receiver, donor = network(1), network(2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    graft, snapshot, _ = exchange(receiver, donor, level="filter")
    receiver.load_state_dict(ours)
    of_filters = torch.linspace(0, 1, 6, dtype=torch.float64)
    blend_(graft, torch.cat([torch.tensor([0.25]), of_filters]), snapshot)
    grafted = receiver.state_dict()
    for key in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean"):
        share = of_filters.float().view(-1, *[1] * (ours[key].dim() - 1))
        assert torch.allclose(grafted[key], share * ours[key] + (1 - share) * theirs[key], atol=1e-6), key
    for key in ("3.weight", "3.bias", "7.weight", "7.bias"):
        assert torch.allclose(grafted[key], 0.25 * ours[key] + 0.75 * theirs[key], atol=1e-6), key


@pytest.mark.parametrize("level", ["layer", "filter"])
@pytest.mark.parametrize("criterion", ["entropy", "l1"])
def test_fixed_alpha_ignores_level_and_criterion(level: str, criterion: str) -> None:
    grafted = []
    for settings in ({"level": level, "criterion": criterion}, {}):
        receiver = trained_looking("resnet8", 1)
        _, _, alpha = exchange(receiver, trained_looking("resnet8", 2), alpha=0.3, **settings)
        assert set(alpha) == {0.3}
        grafted.append(receiver.state_dict())
    assert same_bits(*grafted)


@pytest.mark.parametrize("level", ["layer", "filter"])
@pytest.mark.parametrize("criterion", ["entropy", "l1"])
def test_alphas_of_two_peers_sum_to_one_at_either_level(level: str, criterion: str) -> None:
    pair = [grafting(trained_looking("resnet8", seed), level=level, criterion=criterion, c=1.0) for seed in (1, 2)]
    first, second = (published(peer, index) for index, peer in enumerate(pair))
    kept = alpha_of(pair[0], second) + alpha_of(pair[1], first)
    assert len(kept) == 7 + (16 * 3 + 32 * 2 + 64 * 2 if level == "filter" else 0)
    assert torch.allclose(kept, torch.ones_like(kept), atol=1e-12)


def test_l1_alpha_follows_the_norms() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    norms = [[float(state[f"{conv}.weight"].double().abs().sum()) for conv, _ in RESNET8] for state in (ours, theirs)]
    graft, _, alpha = exchange(receiver, donor, criterion="l1", c=0.01)
    assert alpha == pytest.approx(
        [references.adaptive_alpha(own, given, A=A, c=0.01) for own, given in zip(*norms, strict=True)], abs=1e-5
    )
    expected = references.site_graft(ours, theirs, alpha, RESNET8)
    assert len(site_names(graft)) == len(set(alpha)) == 7
    for key, value in receiver.state_dict().items():
        assert np.allclose(value.double().numpy(), expected[key], rtol=1e-6, atol=1e-6), key


@pytest.mark.parametrize("num_donors", [2, 3])
def test_merged_donors_are_the_mean_with_new_entropies(num_donors: int) -> None:
    donors = [trained_looking("resnet8", seed) for seed in range(2, 2 + num_donors)]
    graft = grafting(trained_looking("resnet8", 1))
    snapshots = [published(theirs, peer) for peer, theirs in enumerate(map(grafting, donors), start=1)]
    for snapshot in snapshots:
        snapshot.weights.setflags(write=False)
    before = [snapshot.weights.copy() for snapshot in snapshots]
    merged = mean_snapshot(snapshots)
    graft.receive(snapshots)
    columns = graft.columns()
    assert columns is not None
    assert [merged.peer, *columns["donor"]] == [ALL_OTHERS] * 8
    assert merged.weights.dtype == np.float32
    mean = {
        name: torch.stack([donor.state_dict()[name].double() for donor in donors]).mean(0)
        for name in float_names(donors[0])
    }
    twin = seeded_network("resnet8")
    twin.load_state_dict(mean, strict=False)
    assert np.allclose(merged.weights, FlatState(twin).buffer.numpy(), atol=1e-6)
    expected = [references.entropy(mean[f"{conv}.weight"].flatten()) for conv, _ in RESNET8]
    assert columns["donor_entropy_nats"] == pytest.approx(expected, abs=5e-4)  # rounding moves weights over edges
    of_donors = np.mean([snapshot.entropies for snapshot in snapshots], axis=0)
    # the entropy of the mean is not the mean entropy
    assert np.abs(columns["donor_entropy_nats"] - of_donors).max() > 1e-2
    assert all(np.array_equal(snapshot.weights, weights) for snapshot, weights in zip(snapshots, before, strict=True))


def test_merging_one_snapshot_returns_it() -> None:
    snapshot = published(grafting(trained_looking("resnet8", 2)), 4)
    assert mean_snapshot([snapshot]) is snapshot


def test_grafted_weights_lie_between_receiver_and_merged_donors() -> None:
    receiver = trained_looking("resnet8", 1)
    ours = copied(receiver.state_dict())
    snapshots = [
        published(theirs, peer)
        for peer, theirs in enumerate((grafting(trained_looking("resnet8", seed)) for seed in (2, 3)), start=1)
    ]
    graft = grafting(receiver, level="filter")
    graft.receive(snapshots)
    mean = {
        name: (trained_looking("resnet8", 2).state_dict()[name] + trained_looking("resnet8", 3).state_dict()[name]) / 2
        for name in float_names(receiver)
    }
    for name in float_names(receiver):
        low, high = torch.minimum(ours[name], mean[name]), torch.maximum(ours[name], mean[name])
        value = receiver.state_dict()[name]
        assert ((low - 1e-6 <= value) & (value <= high + 1e-6)).all(), name
        assert not torch.equal(value, ours[name]), name


@pytest.mark.parametrize("criterion", ["entropy", "l1"])
def test_alphas_sum_to_one_with_another_number_of_bins(criterion: str) -> None:
    pair = [
        grafting(trained_looking("resnet8", seed), level="filter", criterion=criterion, c=1.0, num_bins=4)
        for seed in (1, 2)
    ]
    first, second = (published(peer, index) for index, peer in enumerate(pair))
    there, back = alpha_of(pair[0], second), alpha_of(pair[1], first)
    assert torch.allclose(there + back, torch.ones_like(there), atol=1e-12)


def test_alpha_of_width_1_reaches_0_and_1() -> None:
    _, _, alpha = exchange(trained_looking("resnet8", 1), trained_looking("resnet8", 2), A=1.0, c=1e12)
    assert {round(share, 6) for share in alpha} == {0.0, 1.0}


def test_base_is_the_center_of_alpha() -> None:
    networks = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    _, _, alpha = exchange(*networks, A=1.0, c=1e12, base=0.25)
    assert {round(share, 6) for share in alpha} == {0.0, 0.75}
    _, _, alpha = exchange(*networks, A=0.0, base=0.25)
    assert set(alpha) == {0.25}


def test_copy_takes_integer_buffers_too() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    copy_from_(FlatState(receiver), published(grafting(donor)))
    assert same_bits(receiver.state_dict(), donor.state_dict())


def test_random_criterion_differs_between_peers_and_steps_and_repeats() -> None:
    network = seeded_small_net(0)
    sites = find_sites(network, (3, 8, 8), "network", "all")
    settings = make_settings(graft={"criterion": "random", "A": 1.0, "c": 100.0})
    state = FlatState(network)
    measures = site_measures(state, sites, settings.graft)
    theirs = state.buffer.clone()

    def alpha(num_steps: int) -> list[float]:
        graft = Grafting(ExchangeContext(0, state, sites, measures, settings, num_steps=lambda: num_steps))
        found: list[float] = graft.alpha(measures.entropies, theirs, donor=1).tolist()
        return found

    assert alpha(3) == alpha(3) != alpha(4)
    assert all(value != 0.5 for value in alpha(3))
