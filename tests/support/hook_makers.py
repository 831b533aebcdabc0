"""A network of three sites that takes milliseconds an epoch, and what the tests of rules ask of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from network_makers import few_digits, learner
from torch import Tensor, nn

from graftpop.hooks.hook import Hook
from graftpop.training.filters import SiteFilters, site_filters
from graftpop.training.learner import Learner
from graftpop.training.sites import find_sites

CONVS, NORMS = ("0", "3", "6"), ("1", "4", "7")
WIDTHS = (8, 12, 10)


def three_sites(seed: int = 0) -> nn.Module:
    """Return a network with sites 0, 3 and 6; the convolution of the second has a bias.

    A leaky ReLU hands gradients on where it sees zeros, so that what is dropped stays so only if it is held.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(),
            nn.Conv2d(8, 12, 3, padding=1, bias=True),
            nn.BatchNorm2d(12),
            nn.LeakyReLU(),
            nn.Conv2d(12, 10, 3, padding=1, bias=False),
            nn.BatchNorm2d(10),
            nn.LeakyReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(40, 10),
        )


def three_site_learner(network: int = 0, *, peer: int = 0, epochs: int = 4) -> tuple[Learner, list[SiteFilters]]:
    """Return a learner with batches of 60 images, three an epoch, and its filters."""
    one = learner(three_sites(network), peer=peer, epochs=epochs, batch_size=60)
    return one, site_filters(one, find_sites(one.network, (3, 8, 8), "three sites"))


def train(one: Learner, rule: Hook, until: int) -> None:
    """Train as a peer does, the rule before every epoch but the first, until so many epochs are done."""
    while one.epoch < until:
        if one.epoch > 0:
            rule.before_epoch(one.epoch)
        one.train_epoch()


def entries(one: Learner) -> dict[str, Tensor]:
    """Return a copy of every entry: the network's, and the momentum's."""
    return {name: tensor.clone() for name, tensor in one.state_dict().items()}


def of_filters(state: dict[str, Tensor], site: int, filters: list[int], *, statistics: bool = True) -> list[Tensor]:
    """Return what belongs to some filters of a site: weight, bias, BatchNorm entries, and the momentum of each."""
    names = [
        f"{where}/{module}.{key}"
        for where in ("network", "momentum")
        for module in (CONVS[site], NORMS[site])
        for key in ("weight", "bias", "running_mean", "running_var")
        if statistics or not key.startswith("running")
    ]
    return [state[name][filters] for name in names if name in state]


def others(filters: list[int], site: int) -> list[int]:
    return [index for index in range(WIDTHS[site]) if index not in filters]


@contextmanager
def channels(one: Learner) -> Iterator[dict[int, Tensor]]:
    """Record what leaves each site's BatchNorm, (B, O, H, W), the latest batch's."""
    found: dict[int, Tensor] = {}

    def keep(site: int, output: Tensor) -> None:
        found[site] = output.detach()

    hooks = [
        one.network.get_submodule(norm).register_forward_hook(lambda _, __, output, site=site: keep(site, output))
        for site, norm in enumerate(NORMS)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def gives_zero(one: Learner, dropped: dict[int, list[int]]) -> bool:
    """Whether dropped filters give exactly zero, and no other does, in training and in evaluation."""
    pixels, _ = next(few_digits().val.evaluation_batches(20, torch.device("cpu")))
    before = one.state.buffer.clone()
    zero = True
    for training in (True, False):
        with channels(one) as found, torch.no_grad():
            one.network.train(training)(pixels)
        for site, output in found.items():
            silent = [index for index in range(WIDTHS[site]) if not output[:, index].any()]
            zero &= silent == sorted(dropped.get(site, []))
    one.state.buffer.copy_(before)  # running statistics of the batch in training mode
    return zero
