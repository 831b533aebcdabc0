"""Types and shapes of user-defined inputs and targets, for tasks with targets of any kind."""

from typing import Any

import numpy as np
import pytest
import torch

from graftpop.data import Splits
from graftpop.data.torch_dataset import dataset_splits
from graftpop.errors import DataError


class Named(list[Any]):
    """Items with names of their classes, as ImageFolder has them."""

    def __init__(self, *classes: str, target_transform: Any = None) -> None:
        super().__init__([(torch.ones(3, 4, 4), 0)] * 8)
        self.classes, self.target_transform = list(classes), target_transform


def splits_of_named(train: Any, val: Any, test: Any, *, has_labels: bool = True) -> Splits:
    classes = train.classes
    return dataset_splits(train, val, test, classes=classes, val_fraction=0.25, seed=0, has_labels=has_labels)


def splits_of(item: tuple[Any, Any]) -> Splits:
    items: Any = [item] * 8
    return dataset_splits(items, None, items, classes=(), val_fraction=0.25, seed=0, has_labels=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.ones(5, dtype=torch.int32), torch.int64),
        (torch.ones(5, dtype=torch.uint8), torch.int64),
        (torch.ones(5, dtype=torch.float64), torch.float32),
        (torch.ones(3, 4, 4, dtype=torch.float16), torch.float32),
    ],
)
def test_tokens_stay_whole_numbers_and_all_else_is_float32(given: torch.Tensor, expected: torch.dtype) -> None:
    splits = splits_of((given, given))
    for batches in (
        splits.train.training_batches(4, 0, torch.device("cpu")),
        splits.val.evaluation_batches(4, torch.device("cpu")),
    ):
        inputs, targets = next(batches)
        assert inputs.dtype == targets.dtype == expected
        assert inputs.shape[1:] == targets.shape[1:] == splits.image_shape == given.shape


@pytest.mark.parametrize(
    ("item", "got"), [((torch.ones(3), "one"), r"'str'"), ((torch.tensor(1.0), 1), r"'tensor \(\) of ")]
)
def test_target_of_text_and_input_of_one_number_are_refused(item: tuple[Any, Any], got: str) -> None:
    with pytest.raises(DataError, match=rf"train must be \(input, target\).*got .*{got}"):
        splits_of(item)


def test_labels_in_floating_point_are_refused() -> None:
    items: Any = [(torch.ones(3), torch.tensor(1.0))] * 8
    with pytest.raises(DataError, match=r"train must be \(input, label\).*got .*torch\.float32.*; .*integer$"):
        dataset_splits(items, None, items, classes=("a", "b"), val_fraction=0.25, seed=0)


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_labels_may_be_integers_of_numpy(kind: Any) -> None:
    splits = splits_of_parts(dict.fromkeys(("train", "val", "test"), [(torch.ones(3), kind(1))] * 8))
    assert next(splits.train.training_batches(4, 0, torch.device("cpu")))[1].tolist() == [1] * 4
    with pytest.raises(DataError, match=r"\[0, 1\], got 2; "):
        splits_of_parts(dict.fromkeys(("train", "val", "test"), [(torch.ones(3), kind(2))] * 8))


def test_targets_may_be_numbers_of_numpy() -> None:
    batches = splits_of((torch.ones(3), np.float64(0.5))).test.evaluation_batches(4, torch.device("cpu"))
    assert torch.equal(next(batches)[1], torch.full((4,), 0.5))


@pytest.mark.parametrize("part", ["val", "test"])
def test_inputs_of_another_dtype_than_in_training_are_refused(part: str) -> None:
    train: Any = [(torch.ones(3, 4, 4), 0)] * 8
    other: Any = [(torch.ones(3, 4, 4, dtype=torch.uint8), 0)] * 8
    parts = {"val": train, "test": train, part: other}
    with pytest.raises(DataError, match=rf"dtype.*'{part}': .*torch\.int64"):
        dataset_splits(train, parts["val"], parts["test"], classes=("a",), val_fraction=0.25, seed=0)


@pytest.mark.parametrize(
    ("given", "other"),
    [
        (torch.ones(1), torch.tensor(1.0)),
        (torch.ones(1), torch.ones(1, dtype=torch.int32)),
        (1.0, 1),
        (1, torch.ones(1, dtype=torch.int64)),
    ],
)
def test_targets_of_the_test_that_differ_from_those_of_validation_are_refused(given: Any, other: Any) -> None:
    first: Any = [(torch.ones(3), given)] * 8
    second: Any = [(torch.ones(3), other)] * 8
    for train, val, name in ((first, None, "train"), (second, first, "val")):
        with pytest.raises(DataError, match=rf"^data: targets [^\n]*'{name}': [^\n]*'test': [^\n]*$"):
            dataset_splits(train, val, second, classes=(), val_fraction=0.25, seed=0, has_labels=False)
    assert dataset_splits(first, second, second, classes=(), val_fraction=0.25, seed=0, has_labels=False).test


def test_targets_of_one_kind_may_be_numbers_or_tensors() -> None:
    parts: list[Any] = [[(torch.ones(3), target)] * 8 for target in (1.0, torch.tensor(1.0, dtype=torch.float64))]
    splits = dataset_splits(parts[0], None, parts[1], classes=(), val_fraction=0.25, seed=0, has_labels=False)
    targets = [next(each.evaluation_batches(2, torch.device("cpu")))[1] for each in (splits.val, splits.test)]
    assert torch.equal(targets[0], targets[1])
    assert targets[0].dtype == targets[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("other", "got"),
    [
        (("cat", "eel"), "'eel' for label 1, .*'dog'"),
        (("dog", "cat", "eel"), "'dog' for label 0, .*'cat'"),
        (("cat", "dog", "eel", "fox"), "'fox' for label 3, "),
    ],
)
@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_with_other_labels_than_in_training_are_refused(part: str, other: tuple[str, ...], got: str) -> None:
    train = Named("cat", "dog", "eel")
    parts = {"val": train, "test": train, part: Named(*other)}
    with pytest.raises(DataError, match=rf"{part} .*got {got}"):
        splits_of_named(train, parts["val"], parts["test"])


def test_classes_may_end_early_be_renumbered_or_belong_to_a_user_defined_task() -> None:
    train = Named("cat", "dog", "eel")
    assert splits_of_named(train, None, Named("cat", "dog")).class_names == ("cat", "dog", "eel")
    assert splits_of_named(train, None, Named("cat", "eel", target_transform=[0, 2].__getitem__)).test.num_images == 8
    assert splits_of_named(train, None, Named("fox", "gnu"), has_labels=False).test.num_images == 8


@pytest.mark.parametrize("label", [-100, -1, 2])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_label_of_no_class_is_refused(part: str, label: int) -> None:
    right, wrong = (torch.ones(3, 4, 4), 0), (torch.ones(3, 4, 4), label)
    parts: dict[str, Any] = {"train": [right] * 8, "val": [right] * 8, "test": [right] * 8}
    with pytest.raises(DataError, match=rf"{part}: .*\[0, 1\], got {label}; "):
        splits_of_parts(parts | {part: [wrong] * 8})
    splits = splits_of_parts(parts | {part: [right, right, wrong, right]})
    images = getattr(splits, part)
    for read in (images.training_batches(4, 0, torch.device("cpu")), images.evaluation_batches(4, torch.device("cpu"))):
        with pytest.raises(DataError, match=rf"\[0, 1\], got {label}; "):
            list(read)


def splits_of_parts(parts: dict[str, Any]) -> Splits:
    return dataset_splits(parts["train"], parts["val"], parts["test"], classes=("a", "b"), val_fraction=0.25, seed=0)
