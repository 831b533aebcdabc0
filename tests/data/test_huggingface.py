"""Hugging Face data sets: folders of save_to_disk, read without `datasets`; and objects in Python, made by it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow
import pytest
import torch
from data_makers import png, random_pixels
from torch import nn
from torch.utils.data import TensorDataset

import graftpop
from graftpop.data import MemoryImages, Splits, given_splits, load_splits
from graftpop.data.arrow_file import ArrowFile
from graftpop.data.cache import cache_folder
from graftpop.data.huggingface import hub_parts
from graftpop.errors import DataError, GraftpopError
from graftpop.settings import DataSettings

PIXELS = random_pixels(30, 16, 24)
LABELS = [number % 3 for number in range(30)]
CLASSES = ["cat", "dog", "frog"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels_of(split: object) -> Any:
    return cast(MemoryImages, split).pixels.permute(0, 2, 3, 1).numpy()


def labels_of(split: object) -> list[int]:
    return cast(MemoryImages, split).labels.tolist()


# folders of save_to_disk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        write_split(tmp_path / "saved" / split)
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return tmp_path / "saved"


def write_split(folder: Path, rows: slice = slice(None), *, codec: str | None = None, **columns: Any) -> None:
    """Write a split in two files, as `save_to_disk` does with `num_shards=2`."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": png(image), "path": "x.png"} for image in PIXELS[rows]], kind)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    table = pyarrow.table({"image": images, "label": LABELS[rows], **columns})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder.mkdir(parents=True)
    files = [f"data-{number:05}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate(files):
        with pyarrow.ipc.new_stream(
            folder / name, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression=codec)
        ) as stream:
            stream.write_table(table.slice(15 * number, 15), max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))


def load(root: Path, **settings: Any) -> Splits:
    return load_splits(DataSettings(name="hf", root=str(root), **settings), seed=0)


def test_saved_folder_is_read_like_a_parquet_table(root: Path) -> None:
    splits = load(root)
    for split in (splits.train, splits.test):
        assert np.array_equal(pixels_of(split), PIXELS)
        assert labels_of(split) == LABELS
    assert splits.class_names == tuple(CLASSES)
    np.testing.assert_allclose(splits.recipe.mean, PIXELS.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    assert (splits.recipe.crop_padding, splits.recipe.flip) == (2, True)
    assert load(root, image_size=8).image_shape == (3, 8, 8)


def test_validation_split_is_used_and_another_is_named(root: Path) -> None:
    write_split(root / "validation", slice(0, 20))
    write_split(root / "unlabeled")
    splits = load(root)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (30, 20, 30)
    assert any("unlabeled" in note for note in splits.notes)


def test_large_batches_are_read_in_pieces(tmp_path: Path) -> None:
    table = pyarrow.table({"label": list(range(600))})
    with pyarrow.ipc.new_stream(tmp_path / "x.arrow", table.schema) as stream:
        stream.write_table(table)
    pieces = [batch.column(0).to_pylist() for batch in ArrowFile(tmp_path / "x.arrow").batches("label")]
    assert [len(piece) for piece in pieces] == [256, 256, 88]
    assert [label for piece in pieces for label in piece] == list(range(600))


def test_label_column_can_be_set(root: Path) -> None:
    for split in ("train2", "test2"):
        write_split(root.parent / "two" / split, kind=[f"{label}" for label in range(30)])
    assert len(load(root.parent / "two").class_names) == 3
    assert len(load(root.parent / "two", label="kind").class_names) == 30


def single(root: Path) -> None:
    (root / "state.json").write_text("{}")


def missing_split(root: Path) -> None:
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "extra"]}))


def two_tests(root: Path) -> None:
    write_split(root / "test_hard")


def no_test(root: Path) -> None:
    (root / "dataset_dict.json").unlink()
    (root / "test" / "state.json").unlink()


def missing_file(root: Path) -> None:
    (root / "train" / "data-00001-of-00002.arrow").unlink()


def damaged_state(root: Path) -> None:
    (root / "train" / "state.json").write_text("{")


def no_files(root: Path) -> None:
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": []}))


def file_elsewhere(root: Path) -> None:
    files = [{"filename": "../test/data-00000-of-00002.arrow"}]
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": files}))


def other_state(root: Path) -> None:
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": ["x"]}))


def rewritten(root: Path, **kind: Any) -> None:
    for file in (*(root / "train").glob("*"),):
        file.unlink()
    (root / "train").rmdir()
    write_split(root / "train", **kind)


def compressed(root: Path) -> None:
    rewritten(root, codec="zstd")


def compressed_dictionary(root: Path) -> None:
    """Compress the dictionary of a column, but none of the batches."""
    kind = pyarrow.array(["a" * 100, "b" * 100, "c" * 100] * 10).dictionary_encode()
    rewritten(root, codec="lz4", kind=kind)
    file = root / "train" / "data-00000-of-00002.arrow"
    small = list(pyarrow.ipc.MessageReader.open_stream(file.read_bytes()))
    rewritten(root, kind=kind)
    whole = list(pyarrow.ipc.MessageReader.open_stream(file.read_bytes()))
    assert [message.type for message in whole[:3]] == ["schema", "dictionary", "record batch"]
    with pyarrow.OSFile(str(file), "wb") as sink:
        for message in (whole[0], small[1], *whole[2:]):
            message.serialize_to(sink)


def cut_short(root: Path) -> None:
    file = root / "train" / "data-00000-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-3000])


def offsets_out_of_bounds(root: Path) -> None:
    file = root / "train" / "data-00000-of-00002.arrow"
    size = len(png(PIXELS[0]))
    offsets = np.array([0, size], np.int32).tobytes()
    content = file.read_bytes()
    assert content.count(offsets) == 3  # the batches of a file
    file.write_bytes(content.replace(offsets, np.array([0, 2**30], np.int32).tobytes()))


def damaged_image(root: Path) -> None:
    file = root / "train" / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes().replace(png(PIXELS[15])[:8], b"nonsense", 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (single, r"saved: .*single Dataset; .*train_test_split"),
        (missing_split, r"saved: .*extra/state\.json"),
        (two_tests, r"saved: .*test and test_hard"),
        (no_test, r"saved: .*got no test images; .*save_to_disk"),
        (missing_file, r"train/data-00001-of-00002\.arrow: .*state\.json"),
        (damaged_state, r"train/state\.json: .*JSON"),
        (no_files, r"train: .*got no files"),
        (file_elsewhere, r"\.\./test/data-00000-of-00002\.arrow: .*inside"),
        (other_state, r"train/state\.json: "),
        (compressed, r"train/data-00000-of-00002\.arrow: .*uncompressed"),
        (compressed_dictionary, r"train/data-00000-of-00002\.arrow: .*uncompressed"),
        (cut_short, r"train/data-00000-of-00002\.arrow: .*Arrow"),
        (offsets_out_of_bounds, r"train/data-00000-of-00002\.arrow: .*Arrow"),
        (damaged_image, r"train/data-00001-of-00002\.arrow row 0: .*image"),
    ],
)
def test_unusable_folder_is_refused_in_one_line(root: Path, change: Callable[[Path], None], message: str) -> None:
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


# objects in Python


class Net(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def dataset(label: list[Any] = LABELS, names: list[str] | None = CLASSES, **columns: list[Any]) -> Any:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names) if names else None}
    if names is None:
        kinds["label"] = datasets.Value("string" if isinstance(label[0], str) else "int64")
    kinds |= {name: datasets.ClassLabel(num_classes=30) for name in columns}
    content = {"image": [{"bytes": png(image)} for image in PIXELS], "label": label, **columns}
    return datasets.Dataset.from_dict(content, features=datasets.Features(kinds))


def tensors(batch: Any) -> dict[str, Any]:
    """Return what a user's transform does: other keys, random numbers of torch, values that were scaled."""
    images = [torch.as_tensor(np.array(image)).permute(2, 0, 1) / 255 + torch.rand(()) for image in batch["image"]]
    return {"pixel_values": images, "labels": batch["label"]}


def population(train: Any, test: Any = None, **options: Any) -> graftpop.Population:
    sections: dict[str, Any] = {"training": {"epochs": 1, "batch_size": 8}, "population": {"num_peers": 2}}
    return graftpop.Population(Net, train, test, **(sections | options))


def splits_of(*parts: Any, **settings: Any) -> Splits:
    train, val, test = parts if len(parts) == 3 else (parts[0], None, parts[1])
    return given_splits(*hub_parts(train, val, test), DataSettings(**settings), seed=0)


def test_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    """The layout above is that of `datasets`; a shuffled data set is saved in its new order."""
    data = dataset()
    shuffled = data.shuffle(seed=1)
    import datasets

    datasets.disable_progress_bars()
    datasets.DatasetDict(train=data, test=shuffled).save_to_disk(str(tmp_path / "real"), num_shards={"train": 2})
    splits = load(tmp_path / "real")
    assert splits.class_names == tuple(CLASSES)
    assert np.array_equal(pixels_of(splits.train), PIXELS)
    assert labels_of(splits.test) == list(shuffled["label"])


@pytest.mark.parametrize("format", [None, "torch"])
def test_images_are_decoded_once_and_augmented(format: str | None) -> None:
    data = dataset().with_format(format)
    splits = splits_of(data, data.select(range(9, 15)))
    assert np.array_equal(pixels_of(splits.train), PIXELS)
    assert np.array_equal(pixels_of(splits.test), PIXELS[9:15])
    assert labels_of(splits.test) == LABELS[9:15]
    assert (splits.train.num_images, splits.val.num_images) == (27, 3)
    assert (splits.recipe.crop_padding, splits.recipe.flip) == (2, True)
    decoded = list((cache_folder() / "decoded").glob("hf-*/meta.json"))
    splits_of(data, data.select(range(9, 15)))
    assert list((cache_folder() / "decoded").glob("hf-*/meta.json")) == decoded
    assert splits_of(data, data.select(range(5))).test.num_images == 5
    other = splits_of(data, data.select(range(8, 15)), image_size=8, crop_padding=1, flip=False)
    assert (other.image_shape, other.test.num_images) == ((3, 8, 8), 7)
    assert (other.recipe.crop_padding, other.recipe.flip) == (1, False)


def test_tensors_of_a_transform_are_used_as_they_are() -> None:
    data = dataset().with_transform(tensors)
    splits = splits_of(data, data, data)
    cpu = torch.device("cpu")
    ((images, labels),) = splits.test.evaluation_batches(30, cpu)
    offsets = images - torch.as_tensor(PIXELS).permute(0, 3, 1, 2) / 255
    assert (offsets.amax((1, 2, 3)) - offsets.amin((1, 2, 3)) < 1e-6).all()
    assert labels.tolist() == LABELS
    assert splits.class_names == tuple(CLASSES)
    first, second = (next(splits.train.training_batches(30, 7, cpu))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_images_that_change_in_their_files_are_decoded_again(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [tmp_path / f"{index}.png" for index in range(len(PIXELS))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})

    def written(pixels: Any, changed_at: int) -> Any:
        for file, image in zip(files, pixels, strict=True):
            file.write_bytes(png(image))
            os.utime(file, (changed_at, changed_at))
        return datasets.Dataset.from_dict({"image": list(map(str, files)), "label": LABELS}, features=features)

    data = written(PIXELS, 1)
    assert np.array_equal(pixels_of(splits_of(data, data).test), PIXELS)
    again = written(PIXELS[::-1], 2)
    assert again._fingerprint == data._fingerprint
    assert np.array_equal(pixels_of(splits_of(again, again).test), PIXELS[::-1])


def test_population_trains_on_a_dataset_dict() -> None:
    datasets = pytest.importorskip("datasets")
    data = dataset()
    parts = datasets.DatasetDict(train=data, validation=data.select(range(10)), test=data.select(range(20)))
    trained = population(parts, data={"image_size": 8})
    (done,) = trained.run()
    assert done.score == pytest.approx(round(done.score * 10) / 10)
    assert trained.outcome["test_accuracy"] * 20 == pytest.approx(round(trained.outcome["test_accuracy"] * 20))
    with_tensors = population(data.with_transform(tensors), data.with_transform(tensors))
    assert len(list(with_tensors.run())) == 1


def test_function_named_in_a_space_may_return_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = dataset()
    monkeypatch.setattr("user_parts.hub_data", lambda: {"train": data, "test": data}, raising=False)
    settings = DataSettings(name="python:user_parts.hub_data", image_size=8)
    assert load_splits(settings, seed=0).image_shape == (3, 8, 8)
    monkeypatch.setattr("user_parts.hub_data", lambda: (data.with_transform(tensors),) * 2)
    with pytest.raises(DataError, match=r"^data\.image_size: .*python:user_parts\.hub_data"):
        load_splits(settings, seed=0)


def test_labels_follow_the_rules_of_tables() -> None:
    text = dataset([CLASSES[label] for label in LABELS], None)
    assert splits_of(text, text).class_names == tuple(CLASSES)
    order = ["dog", "frog", "cat"]
    other = dataset([order.index(CLASSES[label]) for label in LABELS], order)
    assert labels_of(splits_of(dataset(), other).test) == LABELS
    two = dataset(fine=list(range(30)))
    assert len(splits_of(two, two, label="fine").class_names) == 30
    assert splits_of(two.select_columns(["image", "label"]), two).class_names == tuple(CLASSES)


def arrays(values: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Array3D(values.shape[1:], str(values.dtype)), "label": datasets.Value("int64")}
    content = {"image": list(values), "label": LABELS}
    return datasets.Dataset.from_dict(content, features=datasets.Features(kinds))


def test_floating_point_arrays_are_used_as_they_are() -> None:
    values = PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 255
    data = arrays(values)
    ((images, labels),) = splits_of(data, data).test.evaluation_batches(30, torch.device("cpu"))
    assert torch.equal(images, torch.as_tensor(values))
    assert labels.tolist() == LABELS


REFUSALS: list[tuple[Callable[[], Any], str]] = [
    (lambda: (dataset().to_iterable_dataset(), dataset()), "^train: .*IterableDataset; .*streaming"),
    (lambda: (dataset(fine=list(range(30))), dataset()), r"^train: .*'fine'.*data\.label"),
    (lambda: (dataset().remove_columns("label"), dataset()), "^train: .*label column"),
    (lambda: (dataset().with_transform(tensors), dataset()), "^test: .*transform.*got .*images"),
    (lambda: (dataset(), TensorDataset(torch.zeros(9, 3, 4, 4))), "^test: .*images.*got a torch"),
    (lambda: (dataset().rename_column("image", "x"),) * 2, "^train: .*pixel_values.*'x'.*rename_column"),
    (lambda: (arrays(PIXELS),) * 2, r"^train: column 'image' .*\(16, 24, 3\); .*cast_column"),
    (lambda: (dataset(), dataset([-1] * 30)), r"^test row 0: .*'label'.*\[0, 2\], got -1"),
    (lambda: (dataset(), None), "^test: .*DatasetDict"),
    (lambda: (dataset().with_transform(tensors), dataset().select([]).with_transform(tensors)), "^test: .*none"),
    (lambda: (dataset(), dataset().select([])), "^test: .*no rows"),
    (lambda: ({"train": dataset(), "test": dataset()}, dataset()), "^train: .*DatasetDict"),
    (lambda: ({"train": dataset()}, None), "^train: .*no test images"),
    (lambda: ({"train": dataset(), "test": dataset(), "test2": dataset()}, None), "^train: .*test and test2"),
    (
        lambda: (dataset(fine=list(range(30))).with_format("torch").with_transform(without_names),) * 2,
        r"^train: .*'a' .*'b' .*select_columns",
    ),
]


def without_names(batch: Any) -> dict[str, Any]:
    return {"image": tensors(batch)["pixel_values"], "a": batch["label"], "b": batch["fine"]}


@pytest.mark.parametrize(("make", "message"), REFUSALS)
def test_unusable_data_set_is_refused_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GraftpopError, match=message) as caught:
        population(*make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"data": {"root": "x"}}, r"^data\.root: "), ({"classes": "abcd"}, "^classes: .* 3 .*'label', got 4")],
)
def test_bad_options_of_a_population_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftpopError, match=message):
        population(dataset(), dataset(), **options)


def test_keys_of_images_are_refused_for_torch_data() -> None:
    items = TensorDataset(torch.zeros(9, 3, 4, 4), torch.zeros(9, dtype=torch.int64))
    with pytest.raises(GraftpopError, match=r"^data\.flip: "):
        population(items, items, classes="ab", data={"flip": False})
