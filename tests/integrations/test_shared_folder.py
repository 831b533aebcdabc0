"""Grafting by files between trainings of any trainer; those of Lightning and transformers where they are installed."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from network_makers import same_bits
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import graftpop
from graftpop.errors import GraftpopError, ModelError
from graftpop.integrations.shared_folder import SharedFolder

LIBRARY = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")


def make_network(seed: int, width: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def both(folder: Path, **options: Any) -> tuple[SharedFolder, SharedFolder]:
    options = {"wait_s": 0.0, "A": 0.7, "c": 5.0} | options
    return SharedFolder(folder, "a", "b", **options), SharedFolder(folder, "b", "a", **options)


def test_two_trainings_graft_each_other_as_graftpop_graft(tmp_path: Path) -> None:
    (a, b), networks = both(tmp_path / "new"), (make_network(0), make_network(1))
    first, second = map(state, networks)
    for shared, network in zip((a, b), networks, strict=True):
        assert shared.graft(network) is None  # before the first epoch
        shared.publish(network, 0)
    assert [shared.graft(network) for shared, network in zip((a, b), networks, strict=True)] == [0, 0]
    assert same_bits(state(networks[0]), graftpop.graft(first, second, A=0.7, c=5.0))
    assert same_bits(state(networks[1]), graftpop.graft(second, first, A=0.7, c=5.0))
    assert a.graft(networks[0]) is None  # once per epoch


def test_tied_weights_stay_tied_and_are_blended_once(tmp_path: Path) -> None:
    (a, b), networks = both(tmp_path, A=0.0), (make_network(0, 4), make_network(1, 4))
    for network in networks:
        network.add_module("tied", nn.Linear(4, 4))
        network.get_submodule("tied").weight = network.get_submodule("0").weight
    mean = (networks[0].get_parameter("0.weight") + networks[1].get_parameter("0.weight")).detach() / 2
    a.publish(networks[0], 0)
    b.publish(networks[1], 0)
    assert a.graft(networks[0]) == 0
    torch.testing.assert_close(networks[0].get_parameter("tied.weight").detach(), mean)


def test_same_weights_are_grafted_once(tmp_path: Path) -> None:
    (a, b), network = both(tmp_path), make_network(0)
    b.publish(make_network(1), 3)
    for epoch, expected in ((0, 3), (1, None)):
        a.publish(network, epoch)
        assert a.graft(network) == expected
    b.publish(make_network(2), 4)
    a.publish(network, 2)
    assert a.graft(network) == 4


def test_absent_donor_is_waited_for_once(tmp_path: Path) -> None:
    (a, b), network = both(tmp_path, wait_s=0.6), make_network(0)
    for epoch, shortest, longest in ((0, 0.6, 30.0), (1, 0.0, 0.6)):
        a.publish(network, epoch)
        start = time.monotonic()
        assert a.graft(network) is None
        assert shortest <= time.monotonic() - start < longest
    b.publish(make_network(1), 0)  # late, but new
    a.publish(network, 2)
    start = time.monotonic()
    assert a.graft(network) == 0
    assert time.monotonic() - start >= 0.6


def test_late_donor_is_awaited(tmp_path: Path) -> None:
    (a, b), network = both(tmp_path, wait_s=30.0), make_network(0)
    b.publish(make_network(1), 0)
    a.publish(network, 1)
    later = threading.Timer(0.1, b.publish, (make_network(1), 1))
    later.start()
    assert a.graft(network) == 1
    later.join()


def test_unreadable_weights_are_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (a, _), network = both(tmp_path), make_network(0)
    for content in (b"nonsense", b"\x02\0\0\0\0\0\0\0{}"):
        (tmp_path / "b.safetensors").write_bytes(content)
        a.publish(network, 0)
        caplog.clear()
        assert a.graft(network) is None
        assert "b cannot be read" in caplog.text


def test_weights_that_are_not_finite_are_neither_shared_nor_grafted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (a, b), network = both(tmp_path), make_network(0)
    b.publish(make_network(1), 0)
    with torch.no_grad():
        network.get_parameter("0.weight")[0, 0] = float("nan")
    a.publish(network, 0)
    assert "epoch 0 are not finite" in caplog.text
    assert a.graft(network) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.safetensors"]


def test_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    a, _ = both(tmp_path / "file")
    a.publish(make_network(0), 0)
    assert "epoch 0 are not shared" in caplog.text
    assert a.graft(make_network(0)) is None


def test_other_architecture_is_refused(tmp_path: Path) -> None:
    (a, b), network = both(tmp_path), make_network(0)
    b.publish(make_network(1, width=7), 0)
    a.publish(network, 0)
    with pytest.raises(ModelError, match="architecture"):
        a.graft(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../a"}, r"^name: .*'\.\./a'"),
        ({"name": ""}, "^name: "),
        ({"donor": "a"}, "^donor: .*'a'"),
        ({"A": 2.0}, "A"),
        ({"c": -1.0}, "c"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((GraftpopError, ValueError), match=message):
        SharedFolder(tmp_path, **({"name": "a", "donor": "b"} | options))


def example(word: str) -> str:
    """Return the example in docs/library.md that has a word."""
    blocks = re.findall("^```python\n(.*?)^```", LIBRARY.partition("## Your own trainer\n")[2], re.M | re.S)
    (block,) = [block for block in blocks if word in block]
    return block


def test_example_of_a_plain_loop_runs(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    network, donor = make_network(0), make_network(1)
    SharedFolder(tmp_path, "b", "a").publish(donor, 5)
    exec(
        example("publish"), {"folder": tmp_path, "network": network, "train_one_epoch": lambda n: seen.append(state(n))}
    )
    assert same_bits(seen[0], state(make_network(0)))
    assert same_bits(seen[1], graftpop.graft(seen[0], state(donor)))
    assert same_bits(seen[2], seen[1])  # the donor has published once
    assert same_bits(load_file(tmp_path / "a.safetensors"), seen[2])


ITEMS = TensorDataset(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2)


@pytest.mark.filterwarnings("ignore")
def test_lightning_callback_grafts_between_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    starts: list[dict[str, Tensor]] = []
    ends: list[dict[str, Tensor]] = []

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = make_network(seed)

        def on_train_epoch_end(self) -> None:
            ends.append(state(self))

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            if batch_idx == 0:
                starts.append(state(self))
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    donor = Module(1)
    SharedFolder(tmp_path, "b", "a").publish(donor, 5)
    module = Module(0)
    exec(
        example("lightning.Trainer"),
        {"folder": tmp_path, "lightning": lightning, "module": module, "loader": DataLoader(ITEMS, 8)},
    )
    assert len(starts) == len(ends) == 3
    assert same_bits(starts[1], graftpop.graft(ends[0], state(donor)))
    assert same_bits(starts[2], ends[1])
    assert same_bits(load_file(tmp_path / "a.safetensors"), ends[2])


@pytest.mark.filterwarnings("ignore")
def test_transformers_callback_grafts_between_epochs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers.Trainer needs it")
    starts: list[dict[str, Tensor]] = []
    ends: list[dict[str, Tensor]] = []

    class Model(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = make_network(seed)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    class Recorder(transformers.TrainerCallback):  # type: ignore[name-defined,misc]
        def on_step_begin(self, args: Any, state_: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
            if state_.global_step % 2 == 0:
                starts.append(state(model))

        def on_epoch_end(self, args: Any, state_: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
            ends.append(state(model))

    donor, model = Model(1), Model(0)
    SharedFolder(tmp_path, "b", "a").publish(donor, 5)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=3, per_device_train_batch_size=8, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    train = [{"x": x, "labels": label} for x, label in zip(*ITEMS.tensors, strict=True)]
    names = {"folder": tmp_path, "transformers": transformers, "model": model, "arguments": arguments, "train": train}
    code = example("transformers.Trainer").replace("trainer.train()", "trainer.add_callback(Recorder)\ntrainer.train()")
    exec(code, names | {"Recorder": Recorder})
    assert len(starts) == len(ends) == 3
    assert same_bits(starts[1], graftpop.graft(ends[0], state(donor)))
    assert same_bits(starts[2], ends[1])
    assert same_bits(load_file(tmp_path / "a.safetensors"), ends[2])


def test_several_processes_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from graftpop.integrations.lightning import GraftCallback

    trainer = type("Trainer", (), {"world_size": 2})()
    with pytest.raises(GraftpopError, match=r"^GraftCallback: .*one process, got 2"):
        GraftCallback(SharedFolder(tmp_path, "a", "b")).on_fit_start(trainer, None)
