"""Latency of networks that take turns."""

import pytest
import torch
from torch import Tensor, nn

from graftpop.models.latency import measure_latencies

SHAPE = (3, 8, 8)


class Calls(nn.Module):
    """Records the batch size and the mode of every pass, in a list that copies share."""

    def __init__(self, name: str, log: list[tuple[str, int, bool]]) -> None:
        super().__init__()
        self.name, self.weight = name, nn.Parameter(torch.zeros(1))
        self._log = [log]

    def __deepcopy__(self, memo: object) -> "Calls":
        return Calls(self.name, self._log[0])

    def forward(self, x: Tensor) -> Tensor:
        self._log[0].append((self.name, len(x), self.training or torch.is_grad_enabled()))
        return x * self.weight


def test_networks_take_turns_after_one_pass_each() -> None:
    log: list[tuple[str, int, bool]] = []
    networks = [Calls("whole", log), Calls("small", log)]
    assert len(measure_latencies(networks, SHAPE, 5)) == 2
    assert [name for name, _, _ in log] == ["whole", "small"] * 32
    assert {(batch_size, trains) for _, batch_size, trains in log} == {(5, False)}
    assert all(network.training for network in networks)


def test_networks_have_one_memory_format_whatever_their_own() -> None:
    formats: list[tuple[bool, bool]] = []
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    for network in (first, second):
        network.register_forward_pre_hook(
            lambda module, inputs: formats.append((module.weight.is_contiguous(), inputs[0].is_contiguous()))
        )
    measure_latencies([first, second], SHAPE, 2)
    assert set(formats) == {(True, True)}
    assert not second.weight.is_contiguous()


@pytest.mark.parametrize("batch_size", [1, 128])
def test_network_with_a_hundred_times_the_layers_takes_longer(batch_size: int) -> None:
    small = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    large = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(100)))
    of_large, of_small = measure_latencies([large, small], SHAPE, batch_size)
    assert of_large > 5 * of_small > 0
