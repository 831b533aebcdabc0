"""A network whose tensors are views of one buffer works as before."""

import copy

import pytest
import torch
from network_makers import copied, same_bits, seeded_network, seeded_small_net, trained_looking
from torch import Tensor, nn

from graftpop.training.flat_state import FlatState


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "densenet", "torchvision:resnet18"])
def test_flattening_keeps_state_and_outputs(name: str) -> None:
    network = trained_looking(name, 1)
    twin = copy.deepcopy(network)
    FlatState(network)
    assert list(network.state_dict()) == list(twin.state_dict())
    assert same_bits(network.state_dict(), twin.state_dict())
    batch = images(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network.eval()(batch), twin.eval()(batch), rtol=1e-4, atol=1e-4)


def test_entries_tile_the_buffer_in_state_order() -> None:
    network = trained_looking("resnet8", 1)
    state = FlatState(network)
    floats = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    assert [entry.name for entry in state.entries] == list(floats)
    end = 0
    for entry in state.entries:
        assert entry.offset == end
        span = state.buffer[entry.offset : entry.offset + entry.numel]
        assert torch.equal(span.sort().values, floats[entry.name].flatten().sort().values)
        end += entry.numel
    assert end == len(state.buffer) == sum(tensor.numel() for tensor in floats.values())
    assert list(state.integers) == [name for name in network.state_dict() if name not in floats]


def test_buffer_and_network_share_memory() -> None:
    network = trained_looking("resnet8", 1)
    state = FlatState(network)
    state.buffer.mul_(2)
    expected = trained_looking("resnet8", 1).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name] * 2 if tensor.is_floating_point() else expected[name]), name
    with torch.no_grad():
        network.get_buffer("bn1.running_mean").fill_(7.0)
        network.get_parameter("conv1.weight").fill_(3.0)
    assert (state["bn1.running_mean"] == 7).all()
    assert int((state.buffer == 7).sum()) == 16
    assert int((state.buffer == 3).sum()) == 16 * 3 * 9


def test_equal_architectures_have_equal_layouts() -> None:
    networks = [trained_looking("resnet8", seed) for seed in (1, 2)]
    first, second = (FlatState(network) for network in networks)
    assert first.entries == second.entries
    second.buffer.copy_(first.buffer)
    assert all(
        torch.equal(tensor, networks[1].state_dict()[name])
        for name, tensor in networks[0].state_dict().items()
        if tensor.is_floating_point()
    )


def test_training_steps_and_loaded_states_reach_the_buffer() -> None:
    network, twin = seeded_small_net(), seeded_small_net()
    state = FlatState(network)
    batch, labels = images(16, 3, 8, 8), torch.arange(16) % 10
    for each in (network, twin):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(each(batch), labels).backward()
            optimizer.step()
    for name, tensor in twin.state_dict().items():
        assert torch.allclose(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5), name
        if tensor.is_floating_point():
            assert torch.equal(state[name], network.state_dict()[name])
    network.load_state_dict(copied(seeded_small_net(5).state_dict()))
    loaded = seeded_small_net(5).get_parameter("0.weight")
    assert torch.equal(state["0.weight"], loaded)
    assert torch.equal(state.buffer[: 16 * 27].view(16, 3, 3, 3).permute(0, 3, 1, 2), loaded)


def test_convolution_weights_and_gradients_are_channels_last() -> None:
    network = seeded_network("resnet8")
    state = FlatState(network)
    network(images(2, 3, 32, 32)).sum().backward()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            assert module.weight.grad is not None
            assert module.weight.grad.stride() == module.weight.stride()
    assert not state["conv1.weight"].requires_grad
    assert not state.buffer.requires_grad


def test_buffer_does_not_depend_on_the_previous_layout() -> None:
    network = trained_looking("resnet8", 1)
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)
    assert torch.equal(FlatState(network).buffer, FlatState(twin).buffer)


def test_tied_weights_are_stored_once_and_stay_tied() -> None:
    network = nn.ModuleDict({"encode": nn.Linear(4, 4, bias=False), "decode": nn.Linear(4, 4, bias=False)})
    network["decode"].weight = network["encode"].weight
    state = FlatState(network)
    assert [entry.name for entry in state.entries] == ["encode.weight"]
    state.buffer.fill_(2.0)
    assert network["decode"].weight is network["encode"].weight
    assert (network.get_parameter("decode.weight") == 2).all()


def test_deep_network_is_flattened_completely() -> None:
    network = seeded_network("resnet110")
    state = FlatState(network)
    assert len(state.entries) == 5 * 109 + 2  # per convolution a weight and four BatchNorm entries; the classifier
    assert all(state[entry.name].data_ptr() == state.buffer[entry.offset].data_ptr() for entry in state.entries)


def test_weights_of_any_number_of_dimensions_keep_their_values() -> None:
    network = nn.ModuleList([nn.Conv1d(2, 3, 5), nn.Conv3d(2, 3, 2), nn.Linear(3, 4), nn.PReLU()])
    network.register_buffer("scale", torch.tensor(2.5))
    twin = copy.deepcopy(network)
    state = FlatState(network)
    assert same_bits(network.state_dict(), twin.state_dict())
    assert state["scale"].item() == 2.5
