"""Image tables in Parquet: which files, columns and labels are used, and which tables are refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow
import pytest
from data_makers import png, random_pixels, write_parquet
from PIL import Image
from pyarrow import parquet

from graftpop.data import MemoryImages, Splits, load_splits
from graftpop.data.parquet import IMAGE_COLUMNS, parquet_files
from graftpop.data.parquet_page_sizes import largest_page
from graftpop.data.parquet_table import MAX_PAGE_BYTES, image_column, label_column
from graftpop.data.thrift_compact import MAX_BYTES, read_struct
from graftpop.errors import DataError
from graftpop.settings import DataSettings

PIXELS = random_pixels(30, 16, 24)
IMAGES = [png(image) for image in PIXELS]
LABELS = [number % 3 for number in range(30)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


def load(root: Path, **settings: Any) -> Splits:
    return load_splits(DataSettings(name="parquet", root=str(root), **settings), seed=0)


def write_both(root: Path, columns: dict[str, Any] | None = None, **kind: Any) -> None:
    for part in ("train", "test"):
        write_parquet(root / f"{part}.parquet", IMAGES, columns or {"label": LABELS}, **kind)


def pixels_of(split: object) -> Any:
    return cast(MemoryImages, split).pixels.permute(0, 2, 3, 1).numpy()


def test_pixels_labels_and_class_names_come_from_the_table(root: Path) -> None:
    write_both(root, image="img", class_names={"label": ["cat", "dog", "frog", "newt"]})
    splits = load(root)
    for split in (splits.train, splits.test):
        assert np.array_equal(pixels_of(split), PIXELS)
        assert cast(MemoryImages, split).labels.tolist() == LABELS
    assert splits.class_names == ("cat", "dog", "frog", "newt")
    assert splits.image_shape == (3, 16, 24)


def test_classes_without_names_are_numbered(root: Path) -> None:
    write_both(root)
    assert load(root).class_names == ("0", "1", "2")


def test_recipe_is_computed_from_the_training_images(root: Path) -> None:
    write_both(root)
    recipe = load(root).recipe
    np.testing.assert_allclose(recipe.mean, PIXELS.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(recipe.std, PIXELS.std(axis=(0, 1, 2)) / 255, rtol=1e-12)
    assert (recipe.crop_padding, recipe.flip) == (2, True)


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"),
        ("data/train-0", "data/train-1", "data/test-0"),
        ("train/0000", "train/0001", "test/0000"),
        ("plain/train/0", "plain/train/1", "plain/validation/0"),
        ("Data/Train-0", "data/TRAIN-1", "TEST/x"),
        ("test/train-0", "validation/train/1", "train/test-0"),  # the file's name first, then the nearest folder
    ],
)
def test_files_are_found_by_name_or_folder(root: Path, files: tuple[str, str, str]) -> None:
    for file, rows in zip(files, (slice(0, 12), slice(12, 20), slice(20, 30)), strict=True):
        write_parquet(root / f"{file}.parquet", IMAGES[rows], {"label": LABELS[rows]})
    splits = load(root)
    assert np.array_equal(pixels_of(splits.train), PIXELS[:20])
    assert np.array_equal(pixels_of(splits.test), PIXELS[20:])


def test_files_of_no_part_are_ignored(root: Path) -> None:
    write_both(root)
    write_parquet(root / "extra.parquet", IMAGES[:5], {"label": LABELS[:5]})
    assert parquet_files(root) == {"train": [root / "train.parquet"], "test": [root / "test.parquet"]}


def test_validation_files_prevent_a_split(root: Path) -> None:
    write_both(root)
    write_parquet(root / "validation.parquet", IMAGES[:5], {"label": LABELS[:5]})
    splits = load(root, max_train_images=20)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (20, 5, 30)


def test_class_label_in_metadata_is_preferred(root: Path) -> None:
    write_both(root, {"size": list(range(30)), "kind": LABELS}, class_names={"kind": ["a", "b", "c"]})
    assert cast(MemoryImages, load(root).train).labels.tolist() == LABELS


def test_label_column_can_be_set(root: Path) -> None:
    write_both(root, {"fine": list(range(30)), "coarse": LABELS})
    assert len(load(root, label="fine").class_names) == 30
    assert len(load(root, label="coarse").class_names) == 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_color_modes_become_rgb(root: Path, mode: str) -> None:
    images = []
    for pixels in PIXELS:
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, "PNG")
        images.append(file.getvalue())
    for part in ("train", "test"):
        write_parquet(root / f"{part}.parquet", images, {"label": LABELS})
    with Image.open(io.BytesIO(images[4])) as image:
        assert np.array_equal(pixels_of(load(root).train)[4], np.asarray(image.convert("RGB")))


def sixteen_bit() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 24), np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"nonsense", "known format"),
        (IMAGES[17][:200], "decoded"),
        (None, "'image'.*got null"),
        (png(PIXELS[17, :8]), r"24 x 16, got 24 x 8; .*data\.image_size"),
        (sixteen_bit(), "got Pillow mode I;16"),
    ],
    ids=["nonsense", "truncated", "null", "other-size", "sixteen-bit"],
)
def test_unusable_image_is_named_by_file_and_row(root: Path, image: bytes, message: str) -> None:
    write_both(root)
    write_parquet(root / "train.parquet", [*IMAGES[:17], image, *IMAGES[18:]], {"label": LABELS})
    with pytest.raises(DataError, match=rf"train\.parquet row 17: .*{message}"):
        load(root)


def test_images_of_several_sizes_can_be_scaled_to_one(root: Path) -> None:
    write_both(root)
    tall = png(np.broadcast_to(PIXELS[17, :, :8], (16, 8, 3)))
    write_parquet(root / "train.parquet", [*IMAGES[:17], tall, *IMAGES[18:]], {"label": LABELS})
    splits = load(root, image_size=8)
    assert splits.image_shape == (3, 8, 8)
    assert np.array_equal(pixels_of(splits.train)[17], PIXELS[17, 4:12, :8])  # as wide as the size: cut, not scaled


@pytest.mark.parametrize(
    ("part", "label", "names", "message"),
    [
        ("train", -1, None, r"\[0, .*\], got -1"),
        ("train", None, None, "got null"),
        ("train", 3, ["a", "b", "c"], r"\[0, 2\], got 3"),
        ("test", 3, None, r"\[0, 2\], got 3"),
        ("train", 10**6, None, r"\[0, 65535\], got 1000000"),
    ],
)
def test_invalid_label_is_named_by_file_and_row(
    root: Path, part: str, label: int | None, names: list[str] | None, message: str
) -> None:
    class_names = {"label": names} if names else None
    write_both(root, class_names=class_names)
    labels = pyarrow.array([*LABELS[:17], label, *LABELS[18:]], pyarrow.int64())
    write_parquet(root / f"{part}.parquet", IMAGES, {"label": labels}, class_names=class_names)
    with pytest.raises(DataError, match=rf"{part}\.parquet row 17: .*'label'.*{message}"):
        load(root)


def test_classes_are_counted_over_all_training_files(root: Path) -> None:
    write_both(root)
    write_parquet(root / "train_1.parquet", IMAGES[:1], {"label": [3]})
    write_parquet(root / "train_2.parquet", [], {"label": pyarrow.array([], pyarrow.int64())})
    assert parquet_files(root)["train"][0] == root / "train.parquet"
    splits = load(root)
    assert splits.class_names == tuple("0123")
    assert len(cast(MemoryImages, splits.train).labels) == 31


def test_number_of_rows_is_limited_per_part(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(root)
    write_parquet(root / "train-1.parquet", IMAGES[:10], {"label": LABELS[:10]})
    monkeypatch.setattr("graftpop.data.parquet_labels.MAX_ROWS", 40)
    assert len(cast(MemoryImages, load(root).train).labels) == 40
    monkeypatch.setattr("graftpop.data.parquet_labels.MAX_ROWS", 39)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "other-cache"))
    with pytest.raises(DataError, match=r"train-1\.parquet.* 39 rows.*train, got 40;"):
        load(root)


@pytest.mark.parametrize(
    ("page_bytes", "num_rows"), [(0, 256), (2**26 // 256 - 1, 256), (2**26 // 256, 255), (2**25, 1), (2**28, 1)]
)
def test_rows_read_at_once_depend_on_the_largest_page(
    root: Path, monkeypatch: pytest.MonkeyPatch, page_bytes: int, num_rows: int
) -> None:
    write_both(root)
    sizes = []
    iter_batches = parquet.ParquetFile.iter_batches

    def recording(table: Any, batch_size: int, **options: Any) -> Any:
        sizes.append(batch_size)
        return iter_batches(table, batch_size, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", recording)
    monkeypatch.setattr("graftpop.data.parquet_table.largest_page", lambda *_: page_bytes)
    assert np.array_equal(pixels_of(load(root).train), PIXELS)
    assert set(sizes) == {num_rows}


@pytest.mark.parametrize("name", ["label", "image"])
def test_repeated_column_is_no_candidate(root: Path, name: str) -> None:
    image = pyarrow.array([{"bytes": content} for content in IMAGES], pyarrow.struct([("bytes", pyarrow.binary())]))
    labels = pyarrow.array(LABELS)
    for part in ("train", "test"):
        table = pyarrow.Table.from_arrays(
            [image, image, labels, labels if name == "label" else image, labels],
            ["image", "img", "label", name, "kind"],
        )
        if name == "image":
            table = table.drop_columns(["kind"])
        parquet.write_table(table, root / f"{part}.parquet")
    schema = parquet.read_schema(root / "train.parquet")
    if name == "label":
        assert label_column(schema, {}, None, root) == "kind"
        with pytest.raises(DataError, match="got 'label'"):
            label_column(schema, {}, "label", root)
    else:
        assert image_column(schema, root, IMAGE_COLUMNS) == "img"


def test_large_binary_images_are_read(root: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.large_binary())])
    for part in ("train", "test"):
        table = pyarrow.table(
            {"image": pyarrow.array([{"bytes": content} for content in IMAGES], kind), "label": LABELS}
        )
        parquet.write_table(table, root / f"{part}.parquet")
    assert np.array_equal(pixels_of(load(root).train), PIXELS)


def no_files(root: Path) -> None:
    parquet.write_table(pyarrow.table({"x": [1]}), root / "other.parquet")


def no_test_files(root: Path) -> None:
    write_parquet(root / "train.parquet", IMAGES, {"label": LABELS})


def no_image_column(root: Path) -> None:
    write_both(root, image="picture")


def two_labels(root: Path) -> None:
    write_both(root, {"fine": LABELS, "coarse": LABELS})


def two_texts(root: Path) -> None:
    write_both(root, {"kind": [str(label) for label in LABELS], "caption": ["a cat"] * 30})


def no_label_column(root: Path) -> None:
    write_both(root, {"label": [[label] for label in LABELS]})


def integers_beside_a_text_called_label(root: Path) -> None:
    write_both(root, {"width": [24] * 30, "label": [str(label) for label in LABELS]})


def text_in_another_file(root: Path) -> None:
    write_both(root)
    write_parquet(root / "test.parquet", IMAGES, {"label": [str(label) for label in LABELS]})


def other_columns(root: Path) -> None:
    write_both(root)
    write_parquet(root / "test.parquet", IMAGES, {"kind": LABELS})


def not_parquet(root: Path) -> None:
    write_both(root)
    (root / "train.parquet").write_bytes(b"nonsense" * 100)


def damaged_pages(root: Path) -> None:
    write_both(root)
    content = bytearray((root / "train.parquet").read_bytes())
    content[4:3000] = bytes(2996)
    (root / "train.parquet").write_bytes(content)


def no_rows(root: Path) -> None:
    write_both(root)
    write_parquet(root / "test.parquet", [], {"label": pyarrow.array([], pyarrow.int64())})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (no_files, r"table: .*got no training images; .*train\*\.parquet"),
        (no_test_files, "table: .*got no test images"),
        (no_image_column, r"train\.parquet: .*'image' or 'img'.*, got 'picture' \(struct\), 'label' "),
        (two_labels, r"got 'image' \(struct\), 'fine' \(int64\), 'coarse' \(int64\); .*data\.label"),
        (two_texts, r"'kind' \(string\), 'caption' \(string\); .*data\.label .* kind, caption"),
        (no_label_column, r"'label' \(list<.*>\); add one"),
        (integers_beside_a_text_called_label, r"'width' \(int64\), 'label' \(string\); .*data\.label .* width, label"),
        (
            text_in_another_file,
            r"test\.parquet: .*'label' \(whole numbers\) .* got 'image' \(struct\), 'label' \(string\)",
        ),
        (other_columns, r"test\.parquet: .*'image' and 'label' .* got 'image' \(struct\), 'kind'"),
        (not_parquet, r"train\.parquet: .*Parquet"),
        (damaged_pages, r"train\.parquet: .*Parquet"),
        (no_rows, r"test\.parquet: .*got no rows"),
    ],
)
def test_unusable_table_is_refused_with_its_reason(root: Path, write: Callable[[Path], None], message: str) -> None:
    write(root)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["corse", "list"])
def test_unknown_label_column_is_refused_with_the_columns(root: Path, label: str) -> None:
    write_both(root, {"coarse": LABELS, "list": [[label] for label in LABELS]})
    with pytest.raises(DataError, match=rf"data\.label: .*, got '{label}'; .*coarse"):
        load(root, label=label)


CLASSES = ["cat", "dog", "frog"]


def test_class_names_in_another_order_are_matched(root: Path) -> None:
    write_both(root, class_names={"label": CLASSES})
    for name, order in (("test", [2, 0, 1]), ("train_1", [1, 0])):
        own = [CLASSES[number] for number in order]
        labels = [order.index(label) for label in LABELS if label in order]
        images = [image for image, label in zip(IMAGES, LABELS, strict=True) if label in order]
        write_parquet(root / f"{name}.parquet", images, {"label": labels}, class_names={"label": own})
    splits = load(root)
    assert splits.class_names == tuple(CLASSES)
    files = sorted(root.glob("train*"))
    of_train = [LABELS if file.name == "train.parquet" else [n for n in LABELS if n < 2] for file in files]
    assert cast(MemoryImages, splits.train).labels.tolist() == [label for labels in of_train for label in labels]
    assert cast(MemoryImages, splits.test).labels.tolist() == LABELS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "eel", "dog"], r"test\.parquet row 1: .*'label'.*, got eel"),
        (["dog", "cat"], r"test\.parquet row 2: .*'label'.*\[0, 1\], got 2"),
        (["cat", "cat", "dog"], r"test\.parquet: .*distinct, got cat, cat, dog"),
    ],
)
def test_class_names_that_cannot_be_matched_are_refused(root: Path, names: list[str], message: str) -> None:
    write_both(root, class_names={"label": CLASSES})
    write_parquet(root / "test.parquet", IMAGES, {"label": LABELS}, class_names={"label": names})
    with pytest.raises(DataError, match=message):
        load(root)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (("fine/train-0", "coarse/train-0", "fine/test-0"), "train in coarse, fine"),
        (("fine/train/0", "coarse/train/0", "fine/test/0"), "train in coarse, fine"),
        (("train-0", "old/train-0", "test-0"), r"train in \., old"),
        (("a/train-0", "a/test-0", "b/test-0"), "test in a, b"),
    ],
)
def test_several_data_sets_below_one_root_are_refused(root: Path, files: tuple[str, ...], named: str) -> None:
    for file in files:
        write_parquet(root / f"{file}.parquet", IMAGES, {"label": LABELS})
    with pytest.raises(DataError, match=rf"table: .*{named}; .*data\.root"):
        load(root)


def test_folders_below_that_of_a_part_are_one_data_set(root: Path) -> None:
    for file in ("train/a/0", "train/b/0", "test/a/0"):
        write_parquet(root / f"{file}.parquet", IMAGES, {"label": LABELS})
    assert len(cast(MemoryImages, load(root).train).labels) == 60


@pytest.mark.parametrize("numbers", [[1, 2, 3], [0, 3, 7], [5, 500, 50_000]])
def test_numbers_with_gaps_are_renumbered_with_a_line(root: Path, numbers: list[int]) -> None:
    write_both(root, {"label": [numbers[label] for label in LABELS]})
    for _ in range(2):  # the second time from the cache
        splits = load(root)
        assert splits.class_names == tuple(map(str, numbers))
        assert cast(MemoryImages, splits.train).labels.tolist() == LABELS
        (note,) = splits.notes
        assert note.startswith("data.label: ")
        assert ", ".join(map(str, numbers)) in note


def test_number_between_the_training_labels_is_refused(root: Path) -> None:
    write_both(root, {"label": [[1, 2, 4][label] for label in LABELS]})
    write_parquet(root / "test.parquet", IMAGES, {"label": [1, 3] * 15})
    with pytest.raises(DataError, match=r"test\.parquet row 1: .*'label'.* 3 labels .*, got 3"):
        load(root)


TEXTS = [["newt", "cat", "\u00fc"][label] for label in LABELS]


@pytest.mark.parametrize(
    "labels",
    [
        pyarrow.array(TEXTS),
        pyarrow.array(TEXTS, pyarrow.large_string()),
        pyarrow.array(TEXTS).dictionary_encode(),
        pyarrow.DictionaryArray.from_arrays(LABELS, ["newt", "cat", "\u00fc", "unused"]),
    ],
    ids=["string", "large-string", "dictionary", "unused"],
)
def test_text_labels_are_sorted_classes(root: Path, labels: Any) -> None:
    write_both(root, {"label": labels})
    splits = load(root)
    assert splits.class_names == ("cat", "newt", "\u00fc")
    assert cast(MemoryImages, splits.train).labels.tolist() == [[1, 0, 2][label] for label in LABELS]
    (note,) = splits.notes
    assert "'label' is text" in note


def test_text_absent_from_training_is_refused(root: Path) -> None:
    write_both(root, {"label": TEXTS})
    write_parquet(root / "test.parquet", IMAGES, {"label": [*TEXTS[:17], "eel", *TEXTS[18:]]})
    with pytest.raises(DataError, match=r"test\.parquet row 17: .*'label'.*, got eel"):
        load(root)


def test_true_and_false_are_two_classes(root: Path) -> None:
    write_both(root, {"label": [label == 1 for label in LABELS]})
    splits = load(root)
    assert splits.class_names == ("False", "True")
    assert cast(MemoryImages, splits.train).labels.tolist() == [int(label == 1) for label in LABELS]


@pytest.mark.parametrize("kind", [pyarrow.float64(), pyarrow.float32(), pyarrow.float16()])
def test_whole_floats_are_class_numbers(root: Path, kind: Any) -> None:
    write_both(root, {"label": pyarrow.array(np.array(LABELS, kind.to_pandas_dtype()), kind)})
    splits = load(root)
    assert splits.class_names == ("0", "1", "2")
    assert splits.notes == ()
    assert cast(MemoryImages, splits.train).labels.tolist() == LABELS


@pytest.mark.parametrize("number", [0.5, float("nan"), float("inf"), 1e300, None])
def test_float_that_is_no_class_number_is_named(root: Path, number: float | None) -> None:
    write_both(root)
    labels = pyarrow.array([*map(float, LABELS[:17]), number, *map(float, LABELS[18:])])
    write_parquet(root / "train.parquet", IMAGES, {"label": labels})
    shown = "null" if number is None else str(number).replace("+", r"\+")
    with pytest.raises(DataError, match=rf"train\.parquet row 17: .*'label'.*, got {shown}"):
        load(root)


# hostile tables


def test_text_in_place_of_an_image_is_no_path(root: Path) -> None:
    write_both(root)
    (root / "secret.png").write_bytes(IMAGES[0])
    cells = pyarrow.array([{"bytes": str(root / "secret.png")}] * 30, pyarrow.struct([("bytes", pyarrow.string())]))
    parquet.write_table(pyarrow.table({"image": cells, "label": LABELS}), root / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: .*'image' or 'img'"):
        load(root)


def test_path_in_a_table_is_ignored(root: Path) -> None:
    write_both(root)  # every path is x.png
    (root / "x.png").mkdir()
    assert np.array_equal(pixels_of(load(root).train), PIXELS)


def test_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    write_both(root)
    (root / "train.parquet").rename(tmp_path / "elsewhere.parquet")
    (root / "train.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: .*/table, got .*elsewhere\.parquet; "):
        load(root)


def test_more_rows_than_bytes_are_refused_unread(root: Path) -> None:
    write_both(root)
    kind = pyarrow.struct([("bytes", pyarrow.binary())])
    image = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(300_000, np.int32)), pyarrow.array([IMAGES[0]]))
    column = pyarrow.StructArray.from_arrays([image.cast(pyarrow.binary())], fields=list(kind))
    table = pyarrow.table({"image": column, "label": np.zeros(300_000, np.int64)})
    parquet.write_table(table, root / "train.parquet", compression="zstd")
    assert (root / "train.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"train\.parquet: .*16777216 rows.*bytes, got 300000"):
        load(root)


def test_oversized_page_is_refused_before_decompression(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PAGE_BYTES == 2**28
    monkeypatch.setattr("graftpop.data.parquet_table.MAX_PAGE_BYTES", 2**24)
    write_both(root)
    table = parquet.read_table(root / "train.parquet").slice(0, 1)
    cells = pyarrow.array([{"bytes": bytes(2**24), "path": None}], table.schema.field("image").type)
    parquet.write_table(table.set_column(0, "image", cells), root / "train.parquet", compression="zstd")
    assert (root / "train.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"train\.parquet: .*16777216 bytes.*, got 16777\d{3};"):
        load(root)


def test_page_of_repeated_images_is_read_in_small_batches(root: Path) -> None:
    large = png(random_pixels(1, 600, 600)[0])  # a million bytes, once in the dictionary of its column
    write_parquet(root / "train.parquet", [large] * 100, {"label": [0, 1] * 50})
    write_parquet(root / "test.parquet", [large] * 2, {"label": [0, 1]})
    before = pyarrow.default_memory_pool().max_memory()
    load(root)
    assert pyarrow.default_memory_pool().max_memory() - before < 2**27


def test_images_larger_than_the_disk_are_refused_before_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(root)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 69_119})())
    with pytest.raises(
        DataError, match=r"cache: parquet .*69120 bytes, 60 images of 24 x 16, got 69119 .*XDG_CACHE_HOME"
    ):
        load(root)


def blank_png(side: int) -> bytes:
    """Return a PNG of a few kilobytes whose header announces a large image."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def test_repeated_large_image_is_refused_before_decoding(root: Path) -> None:
    for part in ("train", "test"):
        write_parquet(root / f"{part}.parquet", [blank_png(4096)] * 20, {"label": [0, 1] * 10})
    size = sum(file.stat().st_size for file in root.iterdir())
    needed = 40 * 3 * 4096**2
    with pytest.raises(DataError, match=rf"cache: parquet .*{needed} bytes, 40 images of 4096 x 4096.* {size} bytes"):
        load(root)


def test_images_larger_than_the_memory_are_refused_before_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(root)
    monkeypatch.setattr("graftpop.data.cache.machine_bytes", lambda: 69_119)
    with pytest.raises(DataError, match=r"cache: parquet .*69120 bytes, 60 images of 24 x 16, got 69119 .*memory"):
        load(root)
    monkeypatch.setattr("graftpop.data.cache.machine_bytes", lambda: 69_120)
    assert load(root).train.num_images


def test_long_text_repeated_by_a_dictionary_is_refused_in_little_memory(root: Path) -> None:
    write_both(root, {"label": TEXTS})
    long = pyarrow.DictionaryArray.from_arrays(LABELS, ["a", "b", "c" * 2**24])
    write_parquet(root / "train.parquet", IMAGES, {"label": long})
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(DataError, match=r"train\.parquet row 2: .*'label'.* 1024 bytes"):
        load(root)
    assert pyarrow.default_memory_pool().max_memory() - before < 2**27


def test_too_many_texts_are_no_classes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftpop.data.parquet_labels.MAX_CLASSES", 2)
    write_both(root, {"label": TEXTS})
    with pytest.raises(DataError, match=r"train\.parquet: .* 2 classes, got 3 .*'label'.*data\.label"):
        load(root)


@pytest.mark.parametrize("names", [[], "abc", 7])
def test_invalid_class_names_are_ignored(root: Path, names: Any) -> None:
    write_both(root, class_names={"label": names})
    assert load(root).class_names == ("0", "1", "2")


def test_class_names_up_to_the_limit_are_accepted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftpop.data.parquet_labels.MAX_CLASSES", 3)
    write_both(root, class_names={"label": ["a", "b", "c"]})
    assert load(root).class_names == ("a", "b", "c")


def test_too_many_class_names_are_refused(root: Path) -> None:
    write_both(root, class_names={"label": ["a"] * 70_000})
    with pytest.raises(DataError, match=r"train\.parquet: .*65536 classes, got 70000 .*'label'"):
        load(root)


@pytest.mark.parametrize("metadata", [b"[" * 10**5, b"\xff", b"[]", b'{"info": 7}', b'{"info": {"features": [1]}}'])
def test_invalid_metadata_is_ignored(root: Path, metadata: bytes) -> None:
    write_both(root)
    table = parquet.read_table(root / "train.parquet").replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, root / "train.parquet")
    assert load(root).class_names == ("0", "1", "2")


def test_column_name_of_several_lines_is_refused(root: Path) -> None:
    write_both(root, {"a\nb": LABELS})
    with pytest.raises(DataError, match=r"train\.parquet: .*got 'a\\nb'; "):
        load(root)


@pytest.mark.parametrize("name", ["label", "image"])
def test_table_with_only_a_repeated_column_is_refused(root: Path, name: str) -> None:
    write_both(root)
    table = parquet.read_table(root / "train.parquet")
    twice = pyarrow.Table.from_arrays([*table.columns, table[name]], [*table.column_names, name])
    parquet.write_table(twice, root / "train.parquet")
    with pytest.raises(DataError, match=rf"train\.parquet: needs .*{name}.*, got "):
        load(root)


def varint(number: int) -> bytes:
    """Return an integer as Thrift's compact protocol writes it."""
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


@pytest.mark.parametrize(
    ("struct", "reason"),
    [
        (b"\x15\x02\x18" + varint(2**40) + b"x", "cut short"),
        (b"\x19\xfc" + varint(2**40), "cut short"),
        (b"\x1c" * 100, "nested too deep"),
        (b"\x15" + b"\xff" * 20, "more than 64 bits"),
        (b"\x1e\x00", "unknown kind 14"),
        (b"\x19\xf1" + varint(10**6) + bytes(10**6), "too many values"),
        (b"", "cut short"),
    ],
)
def test_invalid_thrift_struct_is_refused(struct: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_struct(io.BytesIO(struct), 1000)


@pytest.mark.parametrize("number", [0, 1, -1, 63, -64, 300, -(2**31), 2**63 - 1])
def test_thrift_integers_have_a_sign(number: int) -> None:
    zigzag = 2 * number if number >= 0 else -2 * number - 1
    assert read_struct(io.BytesIO(b"\x16" + varint(zigzag) + b"\0"), 1000) == {1: number}


def test_thrift_map_is_skipped() -> None:
    # {1: {"ab": 300}, 2: 5, 3: {300: "ab"}}
    fields = b"\x1b\x01\x85\x02ab" + varint(600) + b"\x15\x0a" + b"\x1b\x01\x58" + varint(600) + b"\x02ab\0"
    assert read_struct(io.BytesIO(fields), 1000) == {1: None, 2: 5, 3: None}


def test_thrift_values_are_limited_nested_ones_included() -> None:
    struct = b"\x15\x02\x19\x25\x02\x04\0"  # {1: 1, 2: [1, 2]}: four values
    assert read_struct(io.BytesIO(struct), 4) == {1: 1, 2: [1, 2]}
    with pytest.raises(ValueError, match="too many values"):
        read_struct(io.BytesIO(struct), 3)


def test_thrift_binary_is_limited_in_bytes() -> None:
    for size in (MAX_BYTES, MAX_BYTES + 1):
        stream = io.BytesIO(b"\x18" + varint(size) + bytes(size) + b"\0")
        if size == MAX_BYTES:
            assert read_struct(stream, 1000) == {1: bytes(size)}
        else:
            with pytest.raises(ValueError, match="cut short"):
                read_struct(stream, 1000)


@pytest.mark.parametrize(("size", "footer_bytes"), [(20, 13), (2**23 + 1000, 2**23 + 1)])
def test_footer_larger_than_file_or_limit_is_refused(root: Path, size: int, footer_bytes: int) -> None:
    with open(root / "t.parquet", "wb") as file:
        file.truncate(size - 8)
        file.seek(size - 8)
        file.write(footer_bytes.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match=f"got {footer_bytes}"):
        largest_page(root / "t.parquet", ["label"])


def write_one_page(file: Path, page_bytes: int, compressed_bytes: int) -> None:
    """Write a file of one page header without its page."""

    def integer(number: int) -> bytes:
        return varint(2 * number if number >= 0 else -2 * number - 1)

    page = b"\x15\0\x15" + integer(page_bytes) + b"\x15" + integer(compressed_bytes) + b"\0"
    # ColumnMetaData: 3 path, 7 bytes of the chunk, 9 its offset; ColumnChunk: 3; RowGroup: 1 columns, 3 rows
    column = b"\x3c\x39\x18\x05label\x46" + integer(len(page)) + b"\x26" + integer(4) + b"\0\0"
    footer = b"\x49\x1c\x19\x1c" + column + b"\x26" + integer(1) + b"\0\0"
    file.write_bytes(b"PAR1" + page + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def test_page_of_negative_size_is_refused(root: Path) -> None:
    write_one_page(root / "t.parquet", 7, 5)
    assert largest_page(root / "t.parquet", ["label"]) == 7
    for sizes in ((-7, 5), (7, -5)):
        write_one_page(root / "t.parquet", *sizes)
        with pytest.raises(ValueError, match="at byte 4"):
            largest_page(root / "t.parquet", ["label"])


def test_largest_page_is_read_from_the_page_headers(root: Path) -> None:
    # 1 MiB of zeros takes far less in the file; the sizes in the footer are then set to 1.
    cells = pyarrow.array([{"bytes": bytes(2**20)}], pyarrow.struct([("bytes", pyarrow.binary())]))
    parquet.write_table(pyarrow.table({"image": cells}), root / "t.parquet", compression="zstd", use_dictionary=False)
    size = parquet.ParquetFile(root / "t.parquet").metadata.row_group(0).column(0).total_uncompressed_size
    content = (root / "t.parquet").read_bytes()
    assert content.count(varint(2 * size)) >= 2  # of the column chunk and of its row group
    (root / "t.parquet").write_bytes(content.replace(varint(2 * size), b"\x82\x80\x80\x00"))
    assert parquet.ParquetFile(root / "t.parquet").metadata.row_group(0).column(0).total_uncompressed_size == 1
    assert largest_page(root / "t.parquet", ["image.bytes"]) > 2**20
    assert largest_page(root / "t.parquet", ["label"]) == 0
