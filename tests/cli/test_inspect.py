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
        filters = state[f"{name}.weight"].numpy().reshape(layer.num_units, -1).astype(np.float64)
        norms = np.abs(filters).sum(1)
        assert layer.entropy_nats == pytest.approx(references.entropy(filters), abs=2e-3)
        assert layer.num_invalid == ((norms < 0.1).sum(), (norms < 0.01).sum())
        assert layer.l1_norm == pytest.approx(norms.mean(), rel=1e-5)
        assert layer.l2_norm == pytest.approx(np.sqrt((filters**2).sum(1)).mean(), rel=1e-5)
    assert found.layers["conv1"].num_invalid == (3, 2)
    assert found.total.num_units == 16 + 2 * 16 + 2 * 32 + 2 * 64
    assert found.total.num_invalid == (3, 2)
    assert found.information_nats == pytest.approx(sum(layer.entropy_nats for layer in found.layers.values()))
    every = np.concatenate(
        [
            np.abs(state[f"{name}.weight"].numpy()).reshape(layer.num_units, -1).sum(1)
            for name, layer in found.layers.items()
        ]
    )
    assert found.total.l1_norm == pytest.approx(every.mean(), rel=1e-5)


def test_resnet32_has_the_1136_filters_of_the_released_code() -> None:
    assert network_figures("net", seeded_network("resnet32").state_dict(), [0.1]).total.num_units == 1136


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
    sums = [line for line in inspected(one, other, one).output.splitlines() if line.startswith("(")]
    assert [line.split()[:4] for line in sums] == [
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


class Mixer(nn.Module):
    """Positions, a patch convolution, Linear layers and attention; no forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.rand(1, 5, 4))
        self.patches = nn.Conv2d(3, 4, 2)
        self.mix = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10)


@pytest.fixture(scope="module")
def files(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    states = {"mixer": Mixer().state_dict(), "resnet": network.state_dict()}
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in states}


def test_network_of_few_convolutions_has_all_its_weights_counted(files: dict[str, Path]) -> None:
    found = rows(files["mixer"])
    units = {"positions": "5", "patches": "4", "mix.in_proj_weight": "12", "mix.out_proj": "4", "head": "10"}
    assert {name: found[name][0] for name in units} == units
    assert set(found) - set(units) == {"Counted:", "layer", "checkpoint", str(files["mixer"])}
    assert found["layer"][0] == found["checkpoint"][0] == "units"
    assert found[str(files["mixer"])][0] == "35"
    weights = 20 + 48 + 48 + 16 + 40
    assert f"{100 * weights / (weights + 4 + 16 + 8 + 10):.1f}" in found["Counted:"]


def test_sites_option_chooses_the_counted_weights(files: dict[str, Path]) -> None:
    found = rows(files["mixer"], "--sites", "conv")
    assert (found["layer"][0], found["patches"][0], "head" in found) == ("filters", "4", False)
    found = rows(files["resnet"], "--threshold", 0.1, "--sites", "all")
    assert (found["layer"][0], found["conv1"][0], found["linear"][0]) == ("units", "16", "10")
    assert "linear" not in rows(files["resnet"])
    assert rows(files["resnet"])["layer"][0] == "filters"
    ended = inspected(files["resnet"], "--sites", "convs")
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1)
    assert all(part in ended.stderr for part in ("--sites", "convs", "auto, conv, all"))


def test_compared_networks_have_the_same_kinds_of_weights_counted(files: dict[str, Path], network: nn.Module) -> None:
    for order in (("mixer", "resnet"), ("resnet", "mixer")):
        found = rows(*(files[name] for name in order))
        assert {found["head"][order.index("mixer")], found["linear"][order.index("resnet")]} == {"10"}
        assert found["head"][order.index("resnet")] == "-"
    sums = inspected(files["resnet"], files["resnet"], files["mixer"]).output.splitlines()
    assert [line.split()[2] for line in sums if line.startswith("(")] == ["250", "250", "35"]
    held = sum(tensor.numel() for tensor in network.parameters() if tensor.dim() >= 2)
    resnet = f"{100 * held / sum(tensor.numel() for tensor in network.parameters()):.1f}"
    assert f"{resnet} %" in sums[0] or f" {resnet} to" in sums[0]


def test_running_statistics_are_no_parameters() -> None:
    state = nn.Sequential(nn.Conv2d(2, 9, 1), nn.BatchNorm2d(9)).state_dict()
    assert network_figures("net", state, [0.1]).share == pytest.approx(18 / (18 + 9 + 9 + 9))


def test_networks_too_wide_for_the_terminal_have_a_row_each(tmp_path: Path) -> None:
    """A pipe has 200 columns."""
    layer, files = 130 * "a", [tmp_path / "one.pt", tmp_path / f"{170 * 'b'}.pt"]
    for num_filters, file in enumerate(files, start=3):
        torch.save({f"{layer}.weight": torch.ones(num_filters, 1, 1, 1)}, file)
    lines = [line.split() for line in inspected(*files).output.splitlines()]
    assert [layer, "(1)", "3", "0", "0", "0.0000", "1", "1"] in lines
    assert ["(2)", "4", "0", "0", "0.0000", "1", "1"] in lines
    assert ["(2)", str(files[1])] in lines
    assert ["(2)", "4", "0", "0.00", "0", "0.00", "0.0000", "1", "1", "0.000"] in lines


def test_option_without_a_weight_to_count_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    ended = inspected(tmp_path / "linear.pt", "--sites", "conv")
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1)
    assert "--sites all" in ended.stderr
    assert rows(tmp_path / "linear.pt")["weight"][0] == "2"


BAD = {
    "vectors.pt": "vectors.pt: ",
    "list.pt": "state_dict",
    "text.pt": "torch.save",
    "cut.safetensors": "cut.safetensors: ",
    "peer.safetensors": "checkpoint of a peer: ",
    "absent.pt": "absent.pt: ",
    "": "model.safetensors, got none",
}


@pytest.mark.parametrize("name", BAD)
def test_file_without_a_network_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    torch.save(nn.LayerNorm(2).state_dict(), tmp_path / "vectors.pt")
    torch.save({"weight": [1, 2]}, tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "cut.safetensors").write_bytes(save({"weight": torch.ones(9)})[:-1])
    (tmp_path / "peer.safetensors").write_bytes(save({"network/weight": torch.ones(9)}))
    ended = inspected(tmp_path / name)
    assert ended.exit_code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ")
    assert BAD[name] in ended.stderr
