"""User-defined data sets that a space names."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from graftpop.data import Splits, load_splits
from graftpop.errors import DataError, GraftpopError
from graftpop.settings import DataSettings
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models

MODULE = """
import torch
from torch.utils.data import TensorDataset

def items(num, first=0):
    numbers = torch.arange(num)
    made = TensorDataset((first + numbers).float()[:, None, None, None].expand(num, 1, 4, 4), numbers % 2)
    made.classes = ["even", "odd"]
    return made

def two(): return items(20), items(6, 100)
def three(): return items(20), items(4, 50), items(6, 100)
def at(root): return items(int(root)), items(6, 100)
def stream(): return iter(items(20)), items(6)
def unordered(): return {1, 2}, items(6)
def unnamed(): return [TensorDataset(*items(20).tensors), items(6)]
def four(): return items(4), items(4), items(4), items(4)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "made_up_data.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(sys.modules, "made_up_data", raising=False)


def load(function: str, seed: int = 0, **data: Any) -> Splits:
    settings = DataSettings.model_validate({"name": f"python:made_up_data.{function}", **data})
    return load_splits(settings, seed=seed)


def values(images: Any) -> list[float]:
    return [float(image[0, 0, 0]) for batch, _ in images.evaluation_batches(5, torch.device("cpu")) for image in batch]


def test_validation_is_split_off_by_the_seed() -> None:
    first, again, other = (load("two", seed, val_fraction=0.25) for seed in (1, 1, 2))
    assert sorted(values(first.train) + values(first.val)) == list(range(20))
    assert first.val.num_images == 5
    assert values(first.val) == values(again.val) != values(other.val)
    assert values(first.test) == list(range(100, 106))
    assert (first.class_names, first.image_shape) == (("even", "odd"), (1, 4, 4))


def test_functions_own_validation_set_is_used() -> None:
    splits = load("three")
    assert values(splits.val) == [50, 51, 52, 53]
    assert splits.train.num_images == 20


def test_root_is_the_functions_argument() -> None:
    assert load("at", root="30", val_fraction=0.1).train.num_images == 27
    with pytest.raises(DataError, match=r"made_up_data\.at failed: .*root"):
        load("at")


@pytest.mark.parametrize(
    ("key", "value"), [("label", "x"), ("camera", "x"), ("image_size", 8), ("max_train_images", 10)]
)
def test_key_without_effect_is_refused(key: str, value: object) -> None:
    with pytest.raises(DataError, match=rf"^data\.{key}: .*made_up_data\.two, got {value};"):
        load("two", 0, **{key: value})


def test_label_noise_is_refused() -> None:
    with pytest.raises(DataError, match=r"^data\.label_noise: .* got 0\.1;"):
        load("two", label_noise=0.1)


@pytest.mark.parametrize(
    ("function", "got"), [("stream", "iterator"), ("unordered", "set"), ("four", "TensorDataset', 'Tensor")]
)
def test_other_than_two_or_three_data_sets_with_a_length_are_refused(function: str, got: str) -> None:
    with pytest.raises(DataError, match=rf"made_up_data\.{function} must return .*{got}"):
        load(function)


def test_recognition_needs_identities() -> None:
    tree = {
        "data": {"name": "python:made_up_data.two"},
        "task": "recognition",
        "model": {"name": "python:user_parts.Net"},
    }
    with pytest.raises(GraftpopError, match=r"^task\.name: recognition needs .*omniglot.* got user-defined data"):
        check_data_and_models(parse_space(tree))


def test_training_data_without_names_of_classes_are_refused() -> None:
    tree = {"data": {"name": "python:made_up_data.unnamed"}, "model": {"name": "python:user_parts.Net"}}
    with pytest.raises(DataError, match=r"`classes`.*got none"):
        check_data_and_models(parse_space(tree))
