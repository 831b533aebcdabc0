"""Data sets of Hugging Face's `datasets`: a folder of `save_to_disk`, or objects in Python.

The folder is read without `datasets`. An object is recognized by its attributes `features` and `column_names`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from graftpop.data.arrow_file import ArrowFile
from graftpop.data.parquet import IMAGE_COLUMNS, parquet_source, part_of
from graftpop.data.parquet_table import BATCH_ROWS
from graftpop.data.paths import check_inside
from graftpop.data.source import Source, name_parts, root_folder
from graftpop.errors import DataError, one_line
from graftpop.settings import DataSettings

if TYPE_CHECKING:
    import pyarrow

__all__ = ["find_hf", "has_images", "hub_parts", "hub_source"]

SPLITS: Final = "the splits train and test (or validation)"
IMAGES: Final = "a Hugging Face data set of images"
TENSORS: Final = "a Hugging Face data set with a transform or without images"
INPUT_KEYS: Final = (*IMAGE_COLUMNS, "pixel_values")  # the last is usual after a transform


def find_hf(data: DataSettings) -> Source:
    """Return the data set that `DatasetDict.save_to_disk` wrote to `data.root`; errors as in `parquet_source`."""
    root = root_folder(data)
    step = "save DatasetDict(train=..., test=...), such as dataset.train_test_split(0.1), by save_to_disk"
    if (root / "state.json").is_file():
        raise DataError(f"{root}: must hold {SPLITS}, got a single Dataset; {step}")
    folders = {file.parent.name: file.parent for file in sorted(root.glob("*/state.json"))}
    listed = _json(root / "dataset_dict.json").get("splits") if (root / "dataset_dict.json").is_file() else ()
    for split in listed if isinstance(listed, list) else ():
        if split not in folders:
            raise DataError(f"{root}: must hold each of its splits, got no {one_line(split)}/state.json; copy it again")
    names = _by_part(folders, str(root))
    tables = {part: [ArrowFile(file) for file in _data_files(folders[name])] for part, name in names.items()}
    if unused := sorted(set(folders) - set(names.values())):
        notes: tuple[str, ...] = (f"data.root: splits that are not used: {', '.join(unused)}",)
    else:
        notes = ()
    source = parquet_source(
        "hf", root, name_parts(tables, str(root), f"{SPLITS}; {step}"), data.label, image_size=data.image_size
    )
    return replace(source, notes=notes)


def _by_part(names: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the name of the split of each part, `train`, `val` or `test`."""
    found: dict[str, str] = {}
    for name in names:
        part = part_of(name)
        if part is not None and part in found:
            raise DataError(f"{where}: must have one split per part, got {found[part]} and {name}; remove one of them")
        if part is not None:
            found[part] = name
    return found


def _data_files(folder: Path) -> list[Path]:
    state = _json(folder / "state.json")
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'state.json'}: must list the data files, got none; save it again") from error
    for file in files:
        check_inside(file, folder)
        if not file.is_file():
            raise DataError(f"{file}: must be a file, as {folder / 'state.json'} says, got none; copy it again")
    if not files:
        raise DataError(f"{folder}: must hold images, got no files; save it again")
    return files


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: must be JSON, got {one_line(error)}; copy it again") from error
    return content if isinstance(content, dict) else {}


def hub_parts(train: Any, val: Any, test: Any) -> tuple[Any, Any, Any]:
    """Return training, validation and test data, with Hugging Face's data sets in a form that graftpop reads.

    A `DatasetDict` as `train` is split into its parts. Data sets of Hugging Face whose transform or format returns
    tensors become torch data sets; data sets of images are kept for `hub_source`. Torch data sets are unchanged.

    Raises:
        DataError: a data set is streamed, lacks its columns, or is of another kind than `train`.
    """
    if isinstance(train, Mapping) and train and all(map(_is_hub, train.values())):
        if val is not None or test is not None:
            raise DataError("train: must be a Dataset if val or test is given, got a DatasetDict; give a split")
        names = _by_part(train, "train")
        parts = name_parts({part: train[name] for part, name in names.items()}, "train", SPLITS)
        return hub_parts(parts["train"], parts.get("val"), parts["test"])
    given = {"train": train, "val": val, "test": test}
    for name, dataset in given.items():
        if _is_hub(dataset) and not hasattr(dataset, "__len__"):
            raise DataError(f"{name}: must have a length, got {type(dataset).__name__}; load it without streaming=True")
    kinds = {name: _kind(dataset) for name, dataset in given.items() if dataset is not None}
    if odd := next((name for name in kinds if kinds[name] != kinds["train"]), None):
        raise DataError(f"{odd}: must be {kinds['train']}, as train is, got {kinds[odd]}; treat both alike")
    if kinds["train"] == TENSORS:
        train, val, test = (None if data is None else HubItems(data, name) for name, data in given.items())
    return train, val, test


def _is_hub(dataset: object) -> bool:
    return hasattr(dataset, "features") and hasattr(dataset, "column_names")


def has_images(dataset: Any) -> bool:
    """Return whether an object is a data set of Hugging Face with images to decode."""
    return _is_hub(dataset) and (
        dataset.format["type"] != "custom" and any(_feature(dataset, name) == "Image" for name in IMAGE_COLUMNS)
    )


def _kind(dataset: Any) -> str:
    if has_images(dataset):
        return IMAGES
    return TENSORS if _is_hub(dataset) else "a torch data set"


def _feature(dataset: Any, name: str) -> str:
    return type(dataset.features.get(name)).__name__


def hub_source(train: Any, val: Any, test: Any, data: DataSettings) -> Source | None:
    """Return the images of Hugging Face data sets in Python, decoded like Parquet tables; None for other data sets.

    Args:
        train: see `hub_parts`.
        val: likewise, or None.
        test: likewise.
        data: label column and size of the images.

    Raises:
        DataError: the columns cannot be found.
    """
    if not has_images(train):
        return None
    given = {"train": train, "val": val, "test": test}
    parts = {part: [HubTable(part, dataset)] for part, dataset in given.items() if dataset is not None}
    source = parquet_source("hf", Path("data"), parts, data.label, image_size=data.image_size)
    version = "-".join(str(dataset._fingerprint) for dataset in (train, val, test) if dataset is not None)
    return replace(source, version=version)


@dataclass(frozen=True, eq=False)
class HubTable:
    """A Hugging Face data set as a table, see `Table`."""

    name: str
    dataset: Any
    format = "a data set"

    def __str__(self) -> str:
        return self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The images that are in files of their own; the data set's fingerprint stays when they change."""
        import pyarrow.compute as pc

        columns = [self.dataset.data.column(name) for name in IMAGE_COLUMNS if _feature(self.dataset, name) == "Image"]
        paths = [
            path
            for column in columns
            for path in pc.struct_field(column, "path").filter(pc.struct_field(column, "bytes").is_null()).to_pylist()
        ]
        return tuple(Path(path) for path in paths if path is not None and os.path.isfile(path))

    @property
    def most_rows(self) -> int:
        """The number of rows."""
        return len(self.dataset)

    def schema(self) -> "pyarrow.Schema":
        """Return the schema with the names of the classes."""
        return self.dataset.features.arrow_schema

    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self.dataset)

    def batches(self, column: str) -> "Iterator[pyarrow.RecordBatch]":
        """Yield a column, with the content of images in place of their paths."""
        import pyarrow

        feature = self.dataset.features[column]
        for table in self.dataset.select_columns([column]).with_format("arrow").iter(BATCH_ROWS):
            values = table.column(column).combine_chunks()
            if hasattr(feature, "embed_storage"):
                values = feature.embed_storage(values)
            yield pyarrow.RecordBatch.from_arrays([values], [column])


class HubItems(Dataset[tuple[Any, Any]]):
    """A Hugging Face data set whose rows hold tensors, as a torch data set of (input, target).

    Attributes:
        classes: names of the classes, if a column has them.
    """

    def __init__(self, dataset: Any, where: str) -> None:
        self._dataset = dataset if dataset.format["type"] is not None else dataset.with_format("torch")
        if not len(dataset):
            raise DataError(f"{where}: must have items, got none; each split needs at least one")
        item: Mapping[str, Any] = self._dataset[0]
        found = ", ".join(f"'{name}' ({type(value).__name__})" for name, value in item.items())
        self._input = next((name for name in INPUT_KEYS if name in item), "")
        if not self._input:
            raise DataError(
                f"{where}: needs a column {', '.join(INPUT_KEYS[:-1])} or {INPUT_KEYS[-1]} for the input, got "
                f"{one_line(found)}; use rename_column"
            )
        if isinstance(value := item[self._input], Tensor) and value.dim() > 1 and not value.is_floating_point():
            raise DataError(
                f"{where}: column '{self._input}' must hold images or floating-point numbers, got {value.dtype} "
                f"{tuple(value.shape)}; use cast_column('{self._input}', datasets.Image()), or a transform"
            )
        others = [name for name in item if name != self._input]
        classes = [name for name in others if _feature(dataset, name) == "ClassLabel"]
        candidates = classes or [name for name in others if _is_integer(item[name])] or others
        if len(candidates) != 1:
            raise DataError(
                f"{where}: needs one column of labels besides '{self._input}', got {one_line(found)}; use "
                f"select_columns(['{self._input}', LABEL])"
            )
        self._target = candidates[0]
        named = [name for name in dataset.features if _feature(dataset, name) == "ClassLabel"]
        if self._target in named or len(named) == 1:
            self.classes = dataset.features[self._target if self._target in named else named[0]].names

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item = self._dataset[index]
        return item[self._input], item[self._target]


def _is_integer(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_floating_point() and value.dtype != torch.bool
    return isinstance(value, int)
