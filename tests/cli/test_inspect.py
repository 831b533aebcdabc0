"""`graftpop inspect`: figures of any file of weights, per layer and in total."""

import json
from pathlib import Path

import numpy as np
import pytest
import references
import torch
from network_makers import seeded_network, trained_looking
from safetensors.torch import save, save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from graftpop.__main__ import app
from graftpop.cli.weight_tables import network_figures
from graftpop.models.weight_file import read_any_weights

CARD = {"model": "resnet8", "num_classes": 10, "image_shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.2] * 3}


def inspected(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def rows(*arguments: object) -> dict[str, list[str]]:
    """Return the cells of both tables, by the first cell of each row."""
    ended = inspected(*arguments)
    assert ended.exit_code == 0, ended.output
    lines = [line.split() for line in ended.output.splitlines() if line.strip()]
    return {line[0]: line[1:] for line in lines}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained_looking("resnet8", 1)


def weak(network: nn.Module) -> dict[str, Tensor]:
    """Return weights whose first layer has 3 filters with an L1 norm below 0.1, 2 of them below 0.01."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["conv1.weight"][:3] = torch.tensor([0.0, 0.0001, 0.003]).view(3, 1, 1, 1)  # of 27 weights each
    return state


def test_figures_equal_those_of_numpy(network: nn.Module) -> None:
    state = weak(network)
    found = network_figures("net", state, [0.1, 0.01])
    for name, layer in found.layers.items():
        filters = state[f"{name}.weight"].numpy().reshape(layer.num_filters, -1).astype(np.float64)
        norms = np.abs(filters).sum(1)
        assert layer.entropy_nats == pytest.approx(references.entropy(filters), abs=2e-3)
        assert layer.num_invalid == ((norms < 0.1).sum(), (norms < 0.01).sum())
        assert layer.l1_norm == pytest.approx(norms.mean(), rel=1e-5)
        assert layer.l2_norm == pytest.approx(np.sqrt((filters**2).sum(1)).mean(), rel=1e-5)
    assert found.layers["conv1"].num_invalid == (3, 2)
    assert found.total.num_filters == 16 + 2 * 16 + 2 * 32 + 2 * 64
    assert found.total.num_invalid == (3, 2)
    assert found.information_nats == pytest.approx(sum(layer.entropy_nats for layer in found.layers.values()))
    every = np.concatenate(
        [
            np.abs(state[f"{name}.weight"].numpy()).reshape(layer.num_filters, -1).sum(1)
            for name, layer in found.layers.items()
        ]
    )
    assert found.total.l1_norm == pytest.approx(every.mean(), rel=1e-5)


def test_resnet32_has_the_1136_filters_of_the_released_code() -> None:
    assert network_figures("net", seeded_network("resnet32").state_dict(), [0.1]).total.num_filters == 1136


def test_weights_of_infinite_range_have_no_entropy(network: nn.Module) -> None:
    state = weak(network)
    state["conv1.weight"][5, 0, 0, 0] = float("nan")
    state["layer1.0.conv1.weight"][0, 0, 0] = torch.tensor([3e38, -3e38, 0.0])
    figures = network_figures("net", state, [0.1]).layers
    assert [name for name, layer in figures.items() if layer.entropy_nats != layer.entropy_nats] == [
        "conv1",
        "layer1.0.conv1",
    ]


def test_every_file_format_gives_the_same_table(network: nn.Module, tmp_path: Path) -> None:
    state = weak(network)
    best = tmp_path / "best"
    best.mkdir()
    save_file(state, best / "model.safetensors")
    torch.save(state, tmp_path / "plain.pth")
    torch.save(
        {"net": {f"module.{name}": tensor for name, tensor in state.items()}, "acc": 93.5, "epoch": 7},
        tmp_path / "best.t7",
    )
    peer = {f"network/{name}": tensor for name, tensor in state.items()} | {"epoch": torch.tensor(3)}
    peer |= {"momentum/conv1.weight": torch.zeros(16, 3, 3, 3), "swa/mean": torch.zeros(3)}
    (tmp_path / "peer-0.safetensors").write_bytes(save(peer, {"model_card": json.dumps(CARD)}))
    for place in (best, tmp_path / "plain.pth", tmp_path / "best.t7", tmp_path / "peer-0.safetensors"):
        found = rows(place)
        assert found["conv1"][:3] == ["16", "3", "2"]
        assert found["layer3.0.conv2"][:3] == ["64", "0", "0"]
        assert [name for name in found if "conv" in name] == [
            "conv1",
            *(f"layer{stage}.0.conv{number}" for stage in (1, 2, 3) for number in (1, 2)),
        ]
        assert found[str(place)][:5] == ["240", "3", "1.25", "2", "0.83"]


def test_thresholds_follow_one_option_or_repeat_it(network: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save(weak(network), file)
    for options in (
        ["--threshold", 0.05, 0.5, file],
        [file, "--threshold", 0.05, 0.5],
        [file, "--threshold", 0.05, "--threshold=0.5"],
    ):
        assert rows(*options)["conv1"][:3] == ["16", "2", "3"]
    assert inspected(file, "--threshold", "-1").exit_code == 2


def test_two_networks_are_shown_side_by_side(network: nn.Module, tmp_path: Path) -> None:
    one, other = tmp_path / "one.pt", tmp_path / "other.pt"
    torch.save(weak(network), one)
    torch.save({name: tensor for name, tensor in network.state_dict().items() if "layer3" not in name}, other)
    found = rows(one, other)
    assert found["conv1"][:6] == ["16", "16", "3", "0", "2", "0"]
    assert found["layer3.0.conv1"][:6] == ["64", "-", "0", "-", "0", "-"]
    sums = inspected(one, other, one).output.splitlines()
    assert [line.split()[:4] for line in sums[1:]] == [
        ["(1)", str(one), "240", "3"],
        ["(2)", str(other), "112", "0"],
        ["(3)", str(one), "240", "3"],
    ]


def test_layers_of_a_safetensors_file_are_in_numeric_order(tmp_path: Path) -> None:
    names = ["block.2.weight", "block.10.weight", f"block.{'9' * 5000}.weight"]
    save_file({name: torch.ones(1, 1, 1, 1) for name in names}, tmp_path / "a.safetensors")
    assert list(read_any_weights(tmp_path / "a.safetensors")) == names


def test_names_with_markup_are_printed_unchanged(tmp_path: Path) -> None:
    torch.save({"[red]a.weight": torch.ones(2, 1, 1, 1)}, tmp_path / "a.pt")
    assert "[red]a" in rows(tmp_path / "a.pt")


BAD = {
    "linear.pt": "convolution",
    "list.pt": "state_dict",
    "text.pt": "torch.save",
    "cut.safetensors": "cut.safetensors: ",
    "peer.safetensors": "checkpoint of a peer: ",
    "absent.pt": "absent.pt: ",
    "": "model.safetensors, got none",
}


@pytest.mark.parametrize("name", BAD)
def test_file_without_a_network_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    torch.save({"weight": [1, 2]}, tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "cut.safetensors").write_bytes(save({"weight": torch.ones(9)})[:-1])
    (tmp_path / "peer.safetensors").write_bytes(save({"network/weight": torch.ones(9)}))
    ended = inspected(tmp_path / name)
    assert ended.exit_code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ")
    assert BAD[name] in ended.stderr
