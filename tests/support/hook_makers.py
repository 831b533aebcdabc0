"""A network of three sites that trains in milliseconds per epoch, and helpers for the tests of hooks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from network_makers import few_digits, make_learner
from torch import Tensor, nn

from graftpop.hooks.hook import Hook
from graftpop.sites import find_sites
from graftpop.training.filters import SiteFilters, site_filters
from graftpop.training.learner import Learner

CONVS, NORMS = ("0", "3", "6"), ("1", "4", "7")
WIDTHS = (8, 12, 10)


def three_sites(seed: int = 0) -> nn.Module:
    """Return a network with sites 0, 3 and 6; the convolution of the second has a bias.

    A leaky ReLU passes gradients through zeros, so that dropped filters stay zero only if their gradients are masked.
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
    """Return a learner with three batches of 60 images per epoch, and its filters."""
    learner = make_learner(three_sites(network), peer=peer, epochs=epochs, batch_size=60)
    return learner, site_filters(learner, find_sites(learner.network, (3, 8, 8), "three sites", "conv_bn"))


def train(learner: Learner, hook: Hook, until: int) -> None:
    """Train until `until` epochs are done, with the hook before every epoch but the first, as a peer does."""
    while learner.epoch < until:
        if learner.epoch > 0:
            hook.before_epoch(learner.epoch)
        learner.train_epoch()


def entries(learner: Learner) -> dict[str, Tensor]:
    """Return a copy of every entry of the network and of the momentum."""
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def filter_entries(state: dict[str, Tensor], site: int, filters: list[int], *, statistics: bool = True) -> list[Tensor]:
    """Return the entries of some filters of a site: weight, bias, BatchNorm entries, and the momentum of each."""
    names = [
        f"{where}/{module}.{key}"
        for where in ("network", "momentum")
        for module in (CONVS[site], NORMS[site])
        for key in ("weight", "bias", "running_mean", "running_var")
        if statistics or not key.startswith("running")
    ]
    return [state[name][filters] for name in names if name in state]


def other_filters(filters: list[int], site: int) -> list[int]:
    return [index for index in range(WIDTHS[site]) if index not in filters]


@contextmanager
def channels(learner: Learner) -> Iterator[dict[int, Tensor]]:
    """Record the output (B, O, H, W) of each site's BatchNorm for the latest batch, by site."""
    outputs: dict[int, Tensor] = {}

    def record(site: int, output: Tensor) -> None:
        outputs[site] = output.detach()

    handles = [
        learner.network.get_submodule(norm).register_forward_hook(lambda _, __, output, site=site: record(site, output))
        for site, norm in enumerate(NORMS)
    ]
    yield outputs
    for handle in handles:
        handle.remove()


def silent_filters_are(learner: Learner, dropped: dict[int, list[int]]) -> bool:
    """Whether the dropped filters, and no others, output exactly zero in training and in evaluation mode."""
    pixels, _ = next(few_digits().val.evaluation_batches(20, torch.device("cpu")))
    before = learner.state.buffer.clone()
    is_equal = True
    for training in (True, False):
        with channels(learner) as outputs, torch.no_grad():
            learner.network.train(training)(pixels)
        for site, output in outputs.items():
            silent = [index for index in range(WIDTHS[site]) if not output[:, index].any()]
            is_equal &= silent == sorted(dropped.get(site, []))
    learner.state.buffer.copy_(before)  # training mode changed the running statistics
    return is_equal
