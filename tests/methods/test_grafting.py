"""A whole exchange on real networks, against references that loop over the entries of the state."""

from typing import Any

import numpy as np
import pytest
import references
import torch
from network_makers import copied, learner, same_bits, seeded_network, seeded_small_net, trained_looking
from torch import nn

from graftpop.errors import ModelError
from graftpop.learner.flat import FlatState
from graftpop.learner.sites import find_sites
from graftpop.methods.grafting import Grafting, Snapshot, released_assignment, site_assignment
from graftpop.settings import GraftSettings

A, C = 0.4, 500.0


def grafting(network: nn.Module, **settings: Any) -> Grafting:
    sites = find_sites(network, (3, 32, 32), "network")
    return Grafting(FlatState(network), sites, GraftSettings(A=A, c=C, **settings))


def exchange(receiver: nn.Module, donor: nn.Module, **settings: Any) -> tuple[Grafting, Snapshot, list[float]]:
    """Graft the donor into the receiver; return who did it, the snapshot and alpha."""
    ours, theirs = grafting(receiver, **settings), grafting(donor, **settings)
    snapshot = theirs.publish(1, theirs.entropies())
    alpha = ours.alpha(ours.entropies(), torch.from_numpy(snapshot.entropies))
    ours.graft_(alpha, snapshot)
    return ours, snapshot, alpha.tolist()


def float_names(network: nn.Module) -> list[str]:
    return [name for name, tensor in network.state_dict().items() if tensor.is_floating_point()]


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2"])
def test_an_exchange_equals_the_formula_site_by_site(name: str) -> None:
    receiver, donor = trained_looking(name, 1), trained_looking(name, 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    sites = [(site.conv, site.norm) for site in find_sites(receiver, (3, 32, 32), name)]
    own, given = ([references.entropy(state[f"{conv}.weight"].flatten()) for conv, _ in sites]
                  for state in (ours, theirs))

    graft, snapshot, alpha = exchange(receiver, donor)
    measured = grafting(trained_looking(name, 1)).entropies().tolist()
    assert graft.site_names == tuple(conv for conv, _ in sites)
    assert measured == pytest.approx(own, abs=5e-5)  # where rounding moves a weight over an edge, by 1 / numel
    assert snapshot.entropies.tolist() == pytest.approx(given, abs=5e-5)
    expected_alpha = [references.adaptive_alpha(*pair, A=A, c=C)
                      for pair in zip(measured, snapshot.entropies.tolist(), strict=True)]
    assert alpha == pytest.approx(expected_alpha, abs=1e-12)
    expected = references.site_graft(ours, theirs, alpha, sites)
    assert len(set(alpha)) > 5
    for key, value in receiver.state_dict().items():
        assert np.allclose(value.double().numpy(), expected[key], rtol=1e-6, atol=1e-6), key
    assert same_bits(donor.state_dict(), theirs)


def test_batchnorm_statistics_follow_their_convolution_and_the_classifier_the_last_site() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    graft, snapshot, _ = exchange(receiver, donor, alpha=0.5)
    receiver.load_state_dict(ours)
    alpha = torch.linspace(0, 1, len(graft.site_names), dtype=torch.float64)
    graft.graft_(alpha, snapshot)
    grafted = receiver.state_dict()
    for key, site in [("bn1.weight", "conv1"), ("bn1.bias", "conv1"), ("layer2.0.bn1.running_mean", "layer2.0.conv1"),
                      ("layer2.0.bn2.running_var", "layer2.0.conv2"), ("layer3.0.bn2.bias", "layer3.0.conv2"),
                      ("linear.weight", "layer3.0.conv2"), ("linear.bias", "layer3.0.conv2")]:
        share = alpha[graft.site_names.index(site)].item()
        assert torch.allclose(grafted[key], share * ours[key] + (1 - share) * theirs[key], atol=1e-6), key
    assert same_bits({key: grafted[key] for key in ours if "num_batches" in key},
                     {key: ours[key] for key in ours if "num_batches" in key})


def test_identical_peers_are_not_changed_by_an_exchange() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 1)
    before = copied(receiver.state_dict())
    _, _, alpha = exchange(receiver, donor)
    assert alpha == [0.5] * 7
    assert same_bits(receiver.state_dict(), before)


@pytest.mark.parametrize(("alpha", "share"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_a_fixed_alpha_keeps_takes_or_averages_every_float(alpha: float, share: float) -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = copied(receiver.state_dict()), copied(donor.state_dict())
    _, _, alphas = exchange(receiver, donor, alpha=alpha)
    grafted = receiver.state_dict()
    assert alphas == [alpha] * 7
    for name in float_names(receiver):
        expected = {1.0: ours[name], 0.0: theirs[name]}.get(share, (ours[name] + theirs[name]) / 2)
        assert torch.equal(grafted[name], expected) if share != 0.5 else torch.allclose(grafted[name], expected,
                                                                                       atol=1e-6), name


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2"])
def test_compat_reproduces_the_released_code_to_the_bit(name: str) -> None:
    receiver, donor = trained_looking(name, 1), trained_looking(name, 2)
    reference, theirs = trained_looking(name, 1), copied(donor.state_dict())
    own = {f"{key}.weight": references.released_entropy(module.weight.detach())
           for key, module in receiver.named_modules() if isinstance(module, nn.Conv2d) and "conv" in key}
    expected = references.released_graft(reference, theirs, A, C)

    graft, _, alpha = exchange(receiver, donor, compat="released_code")
    untouched = grafting(trained_looking(name, 1), compat="released_code")
    assert [f"{site}.weight" for site in graft.site_names] == list(expected) == list(own)
    assert untouched.entropies().tolist() == list(own.values())
    assert alpha == list(expected.values())
    assert len(set(alpha)) > 3
    assert same_bits(receiver.state_dict(), reference.state_dict())


def test_compat_blends_and_truncates_the_batches_that_batchnorm_has_seen() -> None:
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    receiver.bn1.num_batches_tracked.fill_(10)
    donor.bn1.num_batches_tracked.fill_(15)
    exchange(receiver, donor, compat="released_code", alpha=0.5)
    assert receiver.bn1.num_batches_tracked.item() == 12


def test_compat_measures_a_convolutions_bias_by_itself() -> None:
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
    assert graft.site_names == ("conv1", "conv1.bias")
    assert alpha == [expected["conv1.weight"], expected["conv1.bias"]]
    assert graft.num_invalid_filters().tolist() == [0, int((receiver.conv1.bias.abs() < 0.1).sum())]
    assert same_bits(receiver.state_dict(), reference.state_dict())


def test_in_compat_mobilenetv2s_shortcuts_take_the_alpha_of_the_projection_before_them() -> None:
    """Their convolutions have no "conv" in their names; by the sites of the graph they have an alpha of their own."""
    network = seeded_network("mobilenetv2")
    released = released_assignment(float_names(network))
    ours = site_assignment(float_names(network), find_sites(network, (3, 32, 32), "mobilenetv2"))
    for layer in (0, 1, 10, 16):
        convolution, norm = f"layers.{layer}.shortcut.0.weight", f"layers.{layer}.shortcut.1.weight"
        before = f"layers.{layer}.conv3.weight"
        assert released.site_of[convolution] == released.site_of[norm] == released.site_of[before]
        assert ours.site_of[convolution] == ours.site_of[norm] == ours.site_of[before] + 1
        assert ours.measured[ours.site_of[convolution]] == convolution
    assert (len(released.site_names), len(ours.site_names)) == (53, 57)


def test_in_compat_a_network_whose_first_name_has_no_conv_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"graft\.compat: .* 'conv' in its name, got 'features\.0\.weight'; choose "
                                         r"compat: none"):
        released_assignment(float_names(seeded_network("vgg16")))


def test_a_convolution_without_batchnorm_takes_the_alpha_of_the_site_before() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(),
                            nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    sites = find_sites(network[1:], (3, 8, 8), "network")  # whose modules keep their names
    assert [(site.conv, site.norm) for site in sites] == [("1", "2"), ("5", "6")]
    of_module = {int(name.partition(".")[0]): site
                 for name, site in site_assignment(float_names(network), sites).site_of.items()}
    assert of_module == {0: 0, 1: 0, 2: 0, 3: 0, 5: 1, 6: 1, 7: 1}  # module 4 has no weights; 0 stands before any site


def test_a_batchnorm_follows_its_convolution_wherever_it_is_registered() -> None:
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
    assignment = site_assignment(float_names(network), find_sites(network, (3, 8, 8), "network"))
    of_module = {name.partition(".")[0]: site for name, site in assignment.site_of.items()}
    assert of_module == {"first": 0, "second": 1, "of_second": 1, "of_first": 0, "classifier": 1}


def test_momentum_is_not_touched() -> None:
    receiver, donor = learner(seeded_small_net(1)), learner(seeded_small_net(2))
    for one in (receiver, donor):
        one.train_epoch()
    before = copied(receiver.state_dict())
    exchange(receiver.network, donor.network)
    after = receiver.state_dict()
    momenta = [name for name in after if name.startswith("momentum/")]
    assert len(momenta) == 5
    assert all(torch.equal(after[name], before[name]) for name in momenta)
    assert not torch.equal(after["network/0.weight"], before["network/0.weight"])


def test_training_goes_on_from_the_grafted_weights() -> None:
    one = learner(seeded_small_net(1))
    graft = Grafting(one.state, find_sites(one.network, (3, 8, 8), "network"), GraftSettings(alpha=0.0))
    other = learner(seeded_small_net(2))
    theirs = Grafting(other.state, find_sites(other.network, (3, 8, 8), "network"), None)
    graft.graft_(torch.zeros(1, dtype=torch.float64), theirs.publish(1, theirs.entropies()))
    one.train_epoch()
    other.train_epoch()
    assert same_bits(one.state_dict(), other.state_dict())


def test_a_snapshot_is_not_changed_by_what_its_peer_does_later() -> None:
    one = learner(seeded_small_net(1))
    graft = Grafting(one.state, find_sites(one.network, (3, 8, 8), "network"), GraftSettings())
    one.train_epoch()
    snapshot = graft.publish(0, graft.entropies())
    before = snapshot.weights.copy(), snapshot.integers.copy(), snapshot.entropies.copy()
    one.train_epoch()
    graft.graft_(torch.zeros(1, dtype=torch.float64),
                 Snapshot(1, np.zeros_like(before[0]), before[1], before[2]))
    after = snapshot.weights, snapshot.integers, snapshot.entropies
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))
    assert not one.state.buffer.any()


@pytest.mark.parametrize("compat", ["none", "released_code"])
def test_a_snapshot_that_cannot_be_written_to_is_grafted_without_a_warning(compat: str) -> None:
    """Ray hands out arrays in shared memory that are only to be read."""
    receiver, donor = trained_looking("resnet8", 1), trained_looking("resnet8", 2)
    ours, theirs = grafting(receiver, compat=compat), grafting(donor, compat=compat)
    snapshot = theirs.publish(1, theirs.entropies())
    for array in (snapshot.weights, snapshot.integers, snapshot.entropies):
        array.setflags(write=False)
    before = snapshot.weights.copy()
    torch.set_warn_always(True)  # or only the first warning of the process would be seen
    try:
        ours.graft_(torch.zeros(7, dtype=torch.float64), snapshot)
    finally:
        torch.set_warn_always(False)
    assert np.array_equal(snapshot.weights, before)
    assert np.array_equal(ours.publish(0, ours.entropies()).weights, before)


def test_without_a_section_graft_a_peer_still_measures() -> None:
    network = trained_looking("resnet8", 1)
    state = FlatState(network)
    graft = Grafting(state, find_sites(network, (3, 32, 32), "resnet8"), None)
    assert graft.site_names == ("conv1", *(f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2)))
    expected = [references.entropy(state[f"{site}.weight"].flatten()) for site in graft.site_names]
    assert graft.entropies().tolist() == pytest.approx(expected, abs=1e-12)


def test_invalid_filters_are_counted_site_by_site() -> None:
    network = trained_looking("resnet8", 1)
    with torch.no_grad():
        network.layer1[0].conv2.weight[:5] *= 1e-6
    assert grafting(network).num_invalid_filters().tolist() == [0, 0, 5, 0, 0, 0, 0]


def test_num_bins_is_that_of_the_settings() -> None:
    network = trained_looking("resnet8", 1)
    assert grafting(network, num_bins=2).entropies().max() <= np.log(2)
    assert grafting(network, num_bins=100).entropies().min() > np.log(10)
