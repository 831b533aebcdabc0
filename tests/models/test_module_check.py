"""Each kind of network is refused in one line before anything starts, or trains and resumes to the bit."""

from typing import Any, cast

import network_kinds
import pytest
import torch
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from torch.utils.data import TensorDataset

import graftpop
from graftpop.errors import ModelError
from graftpop.models.flops import count_parameters
from graftpop.models.module_check import check_modules
from graftpop.models.network_file import rebuilt_network, split_peer_file
from graftpop.peer.peer import Peer
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models

REFUSED = {
    "OldWeightNorm": ("'conv2'", "torch.nn.utils.parametrizations.weight_norm"),
    "OldSpectralNorm": ("'conv2'", "torch.nn.utils.parametrizations.spectral_norm"),
    "Pruned": ("'conv2'", "torch.nn.utils.prune"),
    "SyncNorm": ("SyncBatchNorm", "'bn2'", "nn.BatchNorm2d"),
    "Lazy": ("LazyConv2d", "'conv2'"),
    "Compiled": ("torch.compile", "'conv2'"),
    "CompiledInPlace": ("torch.compile", "'conv2'"),
    "Scripted": ("TorchScript", "'conv2'"),
    "Half": ("bfloat16", "'conv1.weight'", "training.precision"),
    "DoubleBuffer": ("float64", "'scale'"),
    "ExtraState": ("dict", "'_extra_state'"),
    "SharedMemory": ("'encode.weight'", "'decode.weight'"),
    "Uncopyable": ("TypeError: one of a kind",),
}
"""Parts of the message that refuses a network, by the name of its class."""

IMAGES = TensorDataset(torch.zeros(20, 3, 8, 8), torch.arange(20) % 10)


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_kind_is_refused_in_one_line_before_anything_starts(kind: str) -> None:
    space = parse_space({"data": {"name": "digits"}, "model": {"name": f"python:network_kinds.{kind}"}, "graft": {}})
    messages = []
    for refused in (
        lambda: check_data_and_models(space),
        lambda: graftpop.Population(getattr(network_kinds, kind), IMAGES, IMAGES, classes="0123456789"),
        lambda: Peer(make_settings(model=space.tree["model"]), 0),  # as a trial of a user's own Tuner starts
    ):
        with pytest.raises(ModelError) as caught:
            refused()
        messages.append(str(caught.value))
    assert len(set(messages)) == 1
    assert messages[0].startswith(f"model.name: 'python:network_kinds.{kind}' must ")
    assert "\n" not in messages[0]
    assert [part for part in (*REFUSED[kind], ", got ", "; ") if part not in messages[0]] == []


def test_lazy_modules_are_accepted_once_they_have_run() -> None:
    network = network_kinds.Lazy(10)
    network(torch.zeros(2, 3, 8, 8))
    check_modules(network, "model.name: 'lazy'")


@pytest.mark.parametrize("method", [{}, {"swa": {"start": 0.0}}], ids=["plain", "averaged"])
@pytest.mark.parametrize("kind", ["WeightNorm", "SpectralNorm", "TiedConvolutions"])
def test_accepted_kind_trains_resumes_to_the_bit_and_loads(kind: str, method: dict[str, dict[str, float]]) -> None:
    settings = make_settings(method, model={"name": f"python:network_kinds.{kind}"})
    whole, killed, resumed = (Peer(settings, 0) for _ in range(3))
    whole.train(1)
    killed.train(1)
    resumed.load(killed.save())
    for peer in (whole, resumed):
        peer.train(1)
    state = tensors_from_bytes(whole.save())
    assert same_bits(state, tensors_from_bytes(resumed.save()))
    weights, card = split_peer_file(whole.save())
    loaded = rebuilt_network(card, tensors_from_bytes(weights), "best")
    expected, labels = whole.predict("test")
    test = whole._splits.test.evaluation_batches(1000, torch.device("cpu"))
    with torch.no_grad():
        found = torch.cat([loaded(images) for images, _ in test]).softmax(1)
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-5)
    assert len(labels) == len(found)


def test_tied_weights_stay_tied_and_count_once() -> None:
    graft = {"alpha": 0.0, "sites": "conv_bn"}
    settings = make_settings(model={"name": "python:network_kinds.TiedConvolutions"}, graft=graft)
    one, other = Peer(settings, 0), Peer(settings, 1)
    other.train(1)
    columns = one.exchange(other.publish())["columns"]
    assert columns is not None
    assert columns["site"] == ["conv1"]
    state, theirs = tensors_from_bytes(one.save()), tensors_from_bytes(other.save())
    assert torch.equal(state["network/conv1.weight"], theirs["network/conv1.weight"])
    assert torch.equal(state["network/conv1.weight"], state["network/conv2.weight"])
    network = one._learner.network
    assert network.get_parameter("conv1.weight") is network.get_parameter("conv2.weight")
    assert one.cost()["parameters"] == count_parameters(network_kinds.TiedConvolutions(10))
    assert len(one.publish().weights) == one.cost()["parameters"] + 4 * 8  # and the BatchNorms' statistics


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("graft.source", {"graft": {"source": "internal"}}),
        ("graft.source", {"graft": {"source": "noise", "sites": "conv_bn"}}),
        ("pruning", {"pruning": {}}),
        ("repr", {"repr": {}}),
    ],
)
def test_parametrized_convolution_is_refused_where_a_method_changes_its_filters(
    key: str, method: dict[str, dict[str, str]]
) -> None:
    with pytest.raises(ModelError) as caught:
        Peer(make_settings(method, model={"name": "python:network_kinds.WeightNorm"}), 0)
    message = str(caught.value)
    assert message.startswith("model.name: 'python:network_kinds.WeightNorm' must ")
    assert f"for {key}" in message
    assert "'conv2'" in message
    assert "\n" not in message


@pytest.mark.parametrize("sites", ["conv_bn", "all"])
def test_parametrized_weight_is_grafted_and_measured_as_it_is_stored(sites: str) -> None:
    settings = make_settings(
        model={"name": "python:network_kinds.WeightNorm"},
        graft={"alpha": 0.0, "sites": sites},
        diagnostics={"thresholds": [0.1]},
    )
    one, other = Peer(settings, 0), Peer(settings, 1)
    other.train(1)
    columns = one.exchange(other.publish())["columns"]
    assert columns is not None
    assert columns["site"] == ["conv1", "conv2", "classifier"][: 2 if sites == "conv_bn" else 3]
    state, theirs = tensors_from_bytes(one.save()), tensors_from_bytes(other.save())
    copied = [name for name in state if name.startswith("network/") and state[name].is_floating_point()]
    assert "network/conv2.parametrizations.weight.original1" in copied
    assert [name for name in copied if not torch.equal(state[name], theirs[name])] == []


def test_soup_of_spectral_norms_has_the_norms_of_its_own_weights() -> None:
    """The mean of the peers' singular vectors would give another norm."""
    settings = make_settings(model={"name": "python:network_kinds.SpectralNorm"}, training={"batch_size": 4})
    peers = [Peer(settings, index) for index in range(3)]
    for peer in peers:
        peer.train(1)
    peers[0].make_soup("uniform_soup", *(peer.publish() for peer in peers))
    network = peers[0]._learner.network.eval()
    for name in ("conv", "classifier"):
        weight = cast(Any, network.get_submodule(name)).weight
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)
