"""Image tables in Parquet."""

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
from graftpop.data.parquet_page_sizes import largest_page
from graftpop.data.thrift_compact import read_struct
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


def test_pixels_labels_and_class_names_are_those_of_the_table(root: Path) -> None:
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


def test_mean_and_deviation_come_from_the_training_images_and_the_padding_from_their_side(root: Path) -> None:
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
    ],
)
def test_files_are_found_by_their_names_or_their_folders(root: Path, files: tuple[str, str, str]) -> None:
    for file, rows in zip(files, (slice(0, 12), slice(12, 20), slice(20, 30)), strict=True):
        write_parquet(root / f"{file}.parquet", IMAGES[rows], {"label": LABELS[rows]})
    splits = load(root)
    assert np.array_equal(pixels_of(splits.train), PIXELS[:20])
    assert np.array_equal(pixels_of(splits.test), PIXELS[20:])


def test_validation_files_of_their_own_leave_the_training_set_whole(root: Path) -> None:
    write_both(root)
    write_parquet(root / "validation.parquet", IMAGES[:5], {"label": LABELS[:5]})
    splits = load(root, max_train_images=20)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (20, 5, 30)


def test_the_class_label_of_the_metadata_wins_over_other_integers(root: Path) -> None:
    write_both(root, {"size": list(range(30)), "kind": LABELS}, class_names={"kind": ["a", "b", "c"]})
    assert cast(MemoryImages, load(root).train).labels.tolist() == LABELS


def test_a_label_column_can_be_named(root: Path) -> None:
    write_both(root, {"fine": list(range(30)), "coarse": LABELS})
    assert len(load(root, label="fine").class_names) == 30
    assert len(load(root, label="coarse").class_names) == 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_colour_modes_become_rgb(root: Path, mode: str) -> None:
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
        (b"nonsense", r"train\.parquet row 17: not an image of a known format"),
        (IMAGES[17][:200], r"train\.parquet row 17: cannot be decoded \("),
        (None, r"train\.parquet row 17: column 'image' must hold the bytes of an image, got null"),
        (
            png(PIXELS[17, :8]),
            r"train\.parquet row 17: all images must have the size of the first, 24 x 16, got 24 x 8; "
            r"data\.image_size brings them to one",
        ),
        (sixteen_bit(), r"train\.parquet row 17: images must have 8 bits a colour, got Pillow mode I;16"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_by_file_and_row(root: Path, image: bytes, message: str) -> None:
    write_both(root)
    write_parquet(root / "train.parquet", [*IMAGES[:17], image, *IMAGES[18:]], {"label": LABELS})
    with pytest.raises(DataError, match=message):
        load(root)


def test_images_of_several_sizes_can_be_given_one(root: Path) -> None:
    write_both(root)
    tall = png(np.broadcast_to(PIXELS[17, :, :8], (16, 8, 3)))
    write_parquet(root / "train.parquet", [*IMAGES[:17], tall, *IMAGES[18:]], {"label": LABELS})
    splits = load(root, image_size=8)
    assert splits.image_shape == (3, 8, 8)
    assert np.array_equal(pixels_of(splits.train)[17], PIXELS[17, 4:12, :8])  # as wide as the size: cut, not scaled


@pytest.mark.parametrize(
    ("part", "label", "names", "message"),
    [
        ("train", -1, None, r"train\.parquet row 17: column 'label' must be in \[0, .*\], got -1"),
        ("train", None, None, r"train\.parquet row 17: column 'label' must hold a class number, got null"),
        ("train", 3, ["a", "b", "c"], r"train\.parquet row 17: column 'label' must be in \[0, 2\], got 3"),
        ("test", 3, None, r"test\.parquet row 17: column 'label' must be in \[0, 2\], got 3"),
        ("train", 10**6, None, r"train\.parquet row 17: column 'label' must be in \[0, 65535\], got 1000000"),
    ],
)
def test_a_label_that_is_no_class_is_named_by_file_and_row(
    root: Path, part: str, label: int | None, names: list[str] | None, message: str
) -> None:
    class_names = {"label": names} if names else None
    write_both(root, class_names=class_names)
    labels = pyarrow.array([*LABELS[:17], label, *LABELS[18:]], pyarrow.int64())
    write_parquet(root / f"{part}.parquet", IMAGES, {"label": labels}, class_names=class_names)
    with pytest.raises(DataError, match=message):
        load(root)


def no_files(root: Path) -> None:
    parquet.write_table(pyarrow.table({"x": [1]}), root / "other.parquet")


def no_test_files(root: Path) -> None:
    write_parquet(root / "train.parquet", IMAGES, {"label": LABELS})


def no_image_column(root: Path) -> None:
    write_both(root, image="picture")


def two_labels(root: Path) -> None:
    write_both(root, {"fine": LABELS, "coarse": LABELS})


def text_labels(root: Path) -> None:
    write_both(root, {"label": [str(label) for label in LABELS]})


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
        (no_files, r"table: must hold training and test images, got no training images; expected train\*\.parquet"),
        (no_test_files, r"table: must hold training and test images, got no test images"),
        (
            no_image_column,
            r"needs a column 'image' or 'img' of struct\{bytes, path\}, got 'picture' \(struct\), 'label' ",
        ),
        (
            two_labels,
            r"needs one column of labels, got 'image' \(struct\), 'fine' \(int64\), 'coarse' \(int64\); name one",
        ),
        (
            text_labels,
            r"needs one column of labels, got 'image' \(struct\), 'label' \(string\); name one by data\.label",
        ),
        (other_columns, r"test\.parquet: must have the columns 'image' and 'label' .* got 'image' \(struct\), 'kind'"),
        (not_parquet, r"train\.parquet: cannot be read as Parquet \(.*\); fetch it again"),
        (damaged_pages, r"train\.parquet: cannot be read as Parquet \(.*\); fetch it again"),
        (no_rows, r"test\.parquet: must hold images, got no rows"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(root: Path, write: Callable[[Path], None], message: str) -> None:
    write(root)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_named_label_column_must_be_there(root: Path) -> None:
    write_both(root, {"coarse": LABELS, "text": [str(label) for label in LABELS]})
    for wanted in ("corse", "text"):
        with pytest.raises(DataError, match=rf"data\.label: must be an integer column of .*, got '{wanted}'; .*coarse"):
            load(root, label=wanted)


# hostile tables


def test_text_in_place_of_an_image_is_not_taken_for_a_path(root: Path) -> None:
    write_both(root)
    (root / "secret.png").write_bytes(IMAGES[0])
    cells = pyarrow.array([{"bytes": str(root / "secret.png")}] * 30, pyarrow.struct([("bytes", pyarrow.string())]))
    parquet.write_table(pyarrow.table({"image": cells, "label": LABELS}), root / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: needs a column 'image' or 'img' of struct\{bytes, path\}, "):
        load(root)


def test_a_path_in_a_table_is_never_followed(root: Path) -> None:
    write_both(root)  # every path is x.png
    (root / "x.png").mkdir()
    assert np.array_equal(pixels_of(load(root).train), PIXELS)


def test_a_table_that_is_a_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    write_both(root)
    (root / "train.parquet").rename(tmp_path / "elsewhere.parquet")
    (root / "train.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: must lie in .*/table, got a link to .*elsewhere\.parquet; "):
        load(root)


def test_more_rows_than_bytes_are_refused_before_they_are_read(root: Path) -> None:
    write_both(root)
    kind = pyarrow.struct([("bytes", pyarrow.binary())])
    image = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(300_000, np.int32)), pyarrow.array([IMAGES[0]]))
    column = pyarrow.StructArray.from_arrays([image.cast(pyarrow.binary())], fields=list(kind))
    table = pyarrow.table({"image": column, "label": np.zeros(300_000, np.int64)})
    parquet.write_table(table, root / "train.parquet", compression="zstd")
    assert (root / "train.parquet").stat().st_size < 100_000
    with pytest.raises(
        DataError,
        match=r"train\.parquet: must have at most 16777216 rows, and no more than it has "
        "bytes, got 300000; write it anew",
    ):
        load(root)


def test_a_page_that_would_fill_the_memory_is_refused_before_it_is_decompressed(root: Path) -> None:
    write_both(root)
    table = parquet.read_table(root / "train.parquet").slice(0, 1)
    cells = pyarrow.array([{"bytes": bytes(2**28), "path": None}], table.schema.field("image").type)
    parquet.write_table(table.set_column(0, "image", cells), root / "train.parquet", compression="zstd")
    assert (root / "train.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"train\.parquet: pages must have at most 268435456 bytes decompressed, got "):
        load(root)


def test_a_page_of_one_image_repeated_is_read_in_few_rows_at_a_time(root: Path) -> None:
    large = png(random_pixels(1, 600, 600)[0])  # a million bytes, once in the dictionary of its column
    write_parquet(root / "train.parquet", [large] * 100, {"label": [0, 1] * 50})
    write_parquet(root / "test.parquet", [large] * 2, {"label": [0, 1]})
    before = pyarrow.default_memory_pool().max_memory()
    load(root)
    assert pyarrow.default_memory_pool().max_memory() - before < 2**27


def test_images_that_the_disk_has_no_room_for_are_refused_before_they_are_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_both(root)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 69_119})())
    with pytest.raises(DataError, match=r"cache: parquet decoded takes 69120 bytes, 60 images of 24 x 16, got 69119 "):
        load(root)


@pytest.mark.parametrize("names", [[], "abc", 7])
def test_class_names_that_are_none_are_not_used(root: Path, names: Any) -> None:
    write_both(root, class_names={"label": names})
    assert load(root).class_names == ("0", "1", "2")


def test_too_many_class_names_are_refused(root: Path) -> None:
    write_both(root, class_names={"label": ["a"] * 70_000})
    with pytest.raises(DataError, match=r"train\.parquet: must have at most 65536 classes, got 70000 names of 'label'"):
        load(root)


@pytest.mark.parametrize("metadata", [b"[" * 10**5, b"\xff", b"[]", b'{"info": 7}', b'{"info": {"features": [1]}}'])
def test_metadata_that_say_nothing_are_not_used(root: Path, metadata: bytes) -> None:
    write_both(root)
    table = parquet.read_table(root / "train.parquet").replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, root / "train.parquet")
    assert load(root).class_names == ("0", "1", "2")


def test_names_of_columns_have_one_line(root: Path) -> None:
    write_both(root, {"a\nb": LABELS})
    with pytest.raises(DataError, match=r"train\.parquet: names of columns must have one line, got 'a\\nb'; rename it"):
        load(root)


@pytest.mark.parametrize("name", ["label", "image"])
def test_a_column_that_is_there_twice_is_not_used(root: Path, name: str) -> None:
    write_both(root)
    table = parquet.read_table(root / "train.parquet")
    twice = pyarrow.Table.from_arrays([*table.columns, table[name]], [*table.column_names, name])
    parquet.write_table(twice, root / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: needs (one column of labels|a column 'image')"):
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
def test_a_struct_of_thrift_that_lies_is_refused(struct: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_struct(io.BytesIO(struct), 1000)


def test_the_largest_page_is_known_whatever_the_footer_says(root: Path) -> None:
    # 1 MiB of zeros is far less in the file; the sizes in the footer are then made 1.
    cells = pyarrow.array([{"bytes": bytes(2**20)}], pyarrow.struct([("bytes", pyarrow.binary())]))
    parquet.write_table(pyarrow.table({"image": cells}), root / "t.parquet", compression="zstd", use_dictionary=False)
    size = parquet.ParquetFile(root / "t.parquet").metadata.row_group(0).column(0).total_uncompressed_size
    content = (root / "t.parquet").read_bytes()
    assert content.count(varint(2 * size)) == 2  # of the column chunk and of its row group
    (root / "t.parquet").write_bytes(content.replace(varint(2 * size), b"\x82\x80\x80\x00"))
    assert parquet.ParquetFile(root / "t.parquet").metadata.row_group(0).column(0).total_uncompressed_size == 1
    assert largest_page(root / "t.parquet", ["image.bytes"]) > 2**20
    assert largest_page(root / "t.parquet", ["label"]) == 0
