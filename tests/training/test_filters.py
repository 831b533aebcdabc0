"""The filters of a network: views of it, and what is done to a filter is done to all that belongs to it."""

import pytest
import torch
from network_makers import few_digits, learner, same_bits, seeded_network
from torch import Tensor, nn

from graftpop.training.filters import SiteFilters, mask_dropped, site_filters
from graftpop.training.learner import Learner
from graftpop.training.sites import find_sites

SOME = torch.tensor([4, 1])
KEPT = torch.tensor([0, 2, 3, 5])
BATCHNORM = ("weight", "bias", "running_mean", "running_var")
NEW = {"0.bias": 0.0, "1.weight": 1.0, "1.bias": 0.0, "1.running_mean": 0.0, "1.running_var": 1.0}


def two_sites() -> nn.Module:
    """Return a network whose first convolution has a bias, and whose second is grouped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.LeakyReLU(),
            nn.Conv2d(6, 8, 3, groups=2, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


def trained(num_epochs: int = 1) -> tuple[Learner, list[SiteFilters]]:
    one = learner(two_sites(), batch_size=60)
    for _ in range(num_epochs):
        one.train_epoch()
    return one, site_filters(one, find_sites(one.network, (3, 8, 8), "network"))


def entries(one: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in one.state_dict().items()}


def names(site: int, *, statistics: bool) -> list[str]:
    """Return the entries of a site, momentum included."""
    modules = (("0", "1"), ("3", "4"))[site]
    trained_names = [
        f"{module}.{key}" for module in modules for key in ("weight", "bias") if (module, key) != ("3", "bias")
    ]
    found = [f"{where}/{name}" for where in ("network", "momentum") for name in trained_names]
    return found + [f"network/{modules[1]}.{key}" for key in ("running_mean", "running_var") if statistics]


def test_there_is_one_for_every_site_in_module_order() -> None:
    _, filters = trained()
    assert [(site.site.conv, site.site.norm, site.num_filters) for site in filters] == [("0", "1", 6), ("3", "4", 8)]
    assert [sorted(site.parameters) for site in filters] == [
        ["0.bias", "0.weight", "1.bias", "1.weight"],
        ["3.weight", "4.bias", "4.weight"],
    ]
    assert filters[1].bias is None


def test_every_tensor_is_a_view_with_one_entry_a_filter() -> None:
    one, filters = trained()
    state = one.network.state_dict()
    for index, site in enumerate(filters):
        views = {f"{site.site.conv}.weight": site.weight, f"{site.site.conv}.bias": site.bias}
        views |= {
            f"{site.site.norm}.{key}": tensor
            for key, tensor in zip(BATCHNORM, (site.scale, site.shift, site.mean, site.variance), strict=True)
        }
        for name, tensor in views.items():
            if tensor is not None:
                assert len(tensor) == site.num_filters
                tensor.fill_(index + 0.5)
                assert (state[name] == index + 0.5).all(), name


def test_what_is_dropped_is_zero_and_what_is_kept_is_as_it_was() -> None:
    one, filters = trained()
    before = entries(one)
    filters[0].drop_(SOME)
    after = entries(one)
    for name in names(0, statistics=False):
        assert not after[name][SOME].any(), name
        assert torch.equal(after[name][KEPT], before[name][KEPT]), name
    rest = after.keys() - set(names(0, statistics=False))
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


@pytest.mark.parametrize("is_training", [True, False])
def test_a_dropped_filter_gives_exactly_zero(is_training: bool) -> None:
    one, filters = trained()
    for site in filters:
        site.drop_(SOME)
    pixels, _ = next(few_digits().val.evaluation_batches(20, torch.device("cpu")))
    with torch.no_grad():
        first = one.network[:2].train(is_training)(pixels)
        second = one.network[2:5].train(is_training)(first)
    for output in (first, second):
        silent = [index for index in range(output.shape[1]) if not output[:, index].any()]
        assert silent == [1, 4]


def test_a_revived_filter_has_its_weights_a_new_batchnorm_and_no_momentum() -> None:
    one, filters = trained()
    before = entries(one)
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    filters[0].revive_(SOME, weight)
    after = entries(one)
    assert torch.equal(after["network/0.weight"][SOME], weight)
    for name, value in NEW.items():
        assert (after[f"network/{name}"][SOME] == value).all(), name
    assert not any(after[name][SOME].any() for name in after if name.startswith(("momentum/0.", "momentum/1.")))
    for name in names(0, statistics=True):
        assert torch.equal(after[name][KEPT], before[name][KEPT]), name
    rest = after.keys() - set(names(0, statistics=True))
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


def test_a_copied_filter_brings_its_batchnorm_entries_and_leaves_the_momentum() -> None:
    one, filters = trained()
    expected = entries(one)
    for name in names(0, statistics=True):
        if name.startswith("network/"):
            expected[name][[4, 1]] = expected[name][[0, 5]]
    filters[0].copy_(SOME, torch.tensor([0, 5]))
    assert same_bits(entries(one), expected)


def test_before_the_first_step_there_is_no_momentum_to_clear() -> None:
    one, filters = trained(num_epochs=0)
    filters[0].clear_momentum_(SOME)
    assert not any(name.startswith("momentum/") for name in one.state_dict())
    one.train_epoch()
    filters[0].clear_momentum_(SOME)
    momentum = one.momentum("0.weight")
    assert momentum is not None
    assert not momentum[SOME].any()
    assert momentum[KEPT].abs().sum((1, 2, 3)).all()


def test_what_is_dropped_and_held_stays_zero_and_the_rest_trains() -> None:
    one, filters = trained()
    for site in filters:
        site.drop_(SOME)
    mask_dropped(one, filters, [SOME, SOME])
    before = entries(one)
    for _ in range(2):
        one.train_epoch()
    after = entries(one)
    for site, kept in ((0, KEPT), (1, torch.tensor([0, 2, 3, 5, 6, 7]))):
        for name in names(site, statistics=False):
            assert not after[name][SOME].any(), name
            assert (after[name][kept] != before[name][kept]).any(), name
    mask_dropped(one, filters, [SOME[:0], SOME[:0]])
    one.train_epoch()
    assert one.state["1.bias"][SOME].all()  # let go


def test_only_sites_with_dropped_filters_are_held() -> None:
    one, filters = trained()
    for site in filters:
        site.drop_(SOME)
    mask_dropped(one, filters, [SOME, SOME[:0]])
    one.train_epoch()
    assert not filters[0].shift[SOME].any()
    assert filters[1].shift[SOME].all()


def test_filters_of_a_residual_network_are_found_with_their_norms() -> None:
    one = learner(seeded_network("resnet8"))
    filters = site_filters(one, find_sites(one.network, (3, 8, 8), "resnet8"))
    assert sum(site.num_filters for site in filters) == 16 * 3 + 32 * 2 + 64 * 2
    assert all(site.scale is not None and len(site.scale) == site.num_filters for site in filters)
