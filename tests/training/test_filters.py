"""Filters as views of a network: dropping, reviving, copying and masking reach every entry of a filter."""

import pytest
import torch
from network_makers import few_digits, make_learner, same_bits, seeded_network
from torch import Tensor, nn

from graftpop.sites import Role, find_sites
from graftpop.training.filters import SiteFilters, mask_dropped, site_filters
from graftpop.training.learner import Learner

SOME = torch.tensor([4, 1])
KEPT = torch.tensor([0, 2, 3, 5])
BATCHNORM: dict[str, Role] = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}
NEW = {"0.bias": 0.0, "1.weight": 1.0, "1.bias": 0.0, "1.running_mean": 0.0, "1.running_var": 1.0}


def two_sites() -> nn.Sequential:
    """Return a network whose first convolution has a bias and whose second is grouped."""
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
    learner = make_learner(two_sites(), batch_size=60)
    for _ in range(num_epochs):
        learner.train_epoch()
    return learner, site_filters(learner, find_sites(learner.network, (3, 8, 8), "network", "conv_bn"))


def entries(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def names(site: int, *, statistics: bool) -> list[str]:
    """Return the entries of a site, momentum included."""
    modules = (("0", "1"), ("3", "4"))[site]
    trained_names = [
        f"{module}.{key}" for module in modules for key in ("weight", "bias") if (module, key) != ("3", "bias")
    ]
    site_names = [f"{where}/{name}" for where in ("network", "momentum") for name in trained_names]
    return site_names + [f"network/{modules[1]}.{key}" for key in ("running_mean", "running_var") if statistics]


def test_site_filters_are_in_module_order() -> None:
    _, filters = trained()
    assert [(site.site.layer, site.site.norm, site.num_filters) for site in filters] == [("0", "1", 6), ("3", "4", 8)]
    assert [sorted(part.tensor for part in site.dropped_parts) for site in filters] == [
        ["0.bias", "0.weight", "1.bias", "1.weight"],
        ["3.weight", "4.bias", "4.weight"],
    ]
    assert filters[1].entry("bias") is None


def test_tensors_are_views_with_one_entry_per_filter() -> None:
    learner, filters = trained()
    state = learner.network.state_dict()
    for index, site in enumerate(filters):
        views = {f"{site.site.layer}.weight": site.weight, f"{site.site.layer}.bias": site.entry("bias")}
        views |= {f"{site.site.norm}.{key}": site.entry(role) for key, role in BATCHNORM.items()}
        for name, tensor in views.items():
            if tensor is not None:
                assert len(tensor) == site.num_filters
                tensor.fill_(index + 0.5)
                assert (state[name] == index + 0.5).all(), name


def test_drop_zeroes_the_dropped_filters_only() -> None:
    learner, filters = trained()
    before = entries(learner)
    filters[0].drop_(SOME)
    after = entries(learner)
    for name in names(0, statistics=False):
        assert not after[name][SOME].any(), name
        assert torch.equal(after[name][KEPT], before[name][KEPT]), name
    rest = after.keys() - set(names(0, statistics=False))
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


@pytest.mark.parametrize("is_training", [True, False])
def test_dropped_filters_output_exactly_zero(is_training: bool) -> None:
    learner, filters = trained()
    assert isinstance(learner.network, nn.Sequential)
    for site in filters:
        site.drop_(SOME)
    pixels, _ = next(few_digits().val.evaluation_batches(20, torch.device("cpu")))
    with torch.no_grad():
        first = learner.network[:2].train(is_training)(pixels)
        second = learner.network[2:5].train(is_training)(first)
    for output in (first, second):
        silent = [index for index in range(output.shape[1]) if not output[:, index].any()]
        assert silent == [1, 4]


def test_revived_filters_have_new_entries_and_no_momentum() -> None:
    learner, filters = trained()
    before = entries(learner)
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    filters[0].revive_(SOME, weight)
    after = entries(learner)
    assert torch.equal(after["network/0.weight"][SOME], weight)
    for name, value in NEW.items():
        assert (after[f"network/{name}"][SOME] == value).all(), name
    assert not any(after[name][SOME].any() for name in after if name.startswith(("momentum/0.", "momentum/1.")))
    for name in names(0, statistics=True):
        assert torch.equal(after[name][KEPT], before[name][KEPT]), name
    rest = after.keys() - set(names(0, statistics=True))
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


def test_copy_includes_batchnorm_entries_but_no_momentum() -> None:
    learner, filters = trained()
    expected = entries(learner)
    for name in names(0, statistics=True):
        if name.startswith("network/"):
            expected[name][[4, 1]] = expected[name][[0, 5]]
    filters[0].copy_(SOME, torch.tensor([0, 5]))
    assert same_bits(entries(learner), expected)


def test_clear_momentum_works_before_and_after_the_first_step() -> None:
    learner, filters = trained(num_epochs=0)
    filters[0].clear_momentum_(SOME)
    assert not any(name.startswith("momentum/") for name in learner.state_dict())
    learner.train_epoch()
    filters[0].clear_momentum_(SOME)
    momentum = learner.momentum("0.weight")
    assert momentum is not None
    assert not momentum[SOME].any()
    assert momentum[KEPT].abs().sum((1, 2, 3)).all()


def test_masked_filters_stay_zero_and_the_rest_trains() -> None:
    learner, filters = trained()
    for site in filters:
        site.drop_(SOME)
    mask_dropped(learner, filters, [SOME, SOME])
    before = entries(learner)
    for _ in range(2):
        learner.train_epoch()
    after = entries(learner)
    for index, kept in ((0, KEPT), (1, torch.tensor([0, 2, 3, 5, 6, 7]))):
        for name in names(index, statistics=False):
            assert not after[name][SOME].any(), name
            assert (after[name][kept] != before[name][kept]).any(), name
    mask_dropped(learner, filters, [SOME[:0], SOME[:0]])
    learner.train_epoch()
    assert learner.state["1.bias"][SOME].all()  # no longer masked


def test_sites_without_dropped_filters_are_not_masked() -> None:
    learner, filters = trained()
    for site in filters:
        site.drop_(SOME)
    mask_dropped(learner, filters, [SOME, SOME[:0]])
    learner.train_epoch()
    first, second = (site.entry("shift") for site in filters)
    assert first is not None
    assert second is not None
    assert not first[SOME].any()
    assert second[SOME].all()


def test_residual_network_has_filters_with_batchnorm_at_every_site() -> None:
    learner = make_learner(seeded_network("resnet8"))
    filters = site_filters(learner, find_sites(learner.network, (3, 8, 8), "resnet8", "conv_bn"))
    assert sum(site.num_filters for site in filters) == 16 * 3 + 32 * 2 + 64 * 2
    scales = [site.entry("scale") for site in filters]
    assert [0 if scale is None else len(scale) for scale in scales] == [site.num_filters for site in filters]


def test_masked_weights_stay_zero_without_a_scale() -> None:
    """A scale of zero would keep the gradient of the weights at zero too."""
    norm = nn.BatchNorm2d(8, affine=False)
    learner = make_learner(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), norm, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        )
    )
    filters = site_filters(learner, find_sites(learner.network, (3, 32, 32), "unscaled", "conv_bn"))
    filters[0].drop_(SOME)
    mask_dropped(learner, filters, [SOME])
    learner.train_epoch()
    assert not learner.state["0.weight"][SOME].any()
