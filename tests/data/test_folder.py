"""Images in class folders: decoded into memory or streamed, and folders that are refused."""

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from data_makers import png, random_pixels, write_class_folders
from PIL import Image
from torchvision.transforms import functional

from graftpop.data import MemoryImages, Splits, StreamedImages, folder, load_splits
from graftpop.errors import DataError
from graftpop.settings import DataSettings

PIXELS = random_pixels(24, 8, 10)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with train/ (12 cats, 6 dogs) and test/ (6 dogs)."""
    write_class_folders(tmp_path / "images" / "train", {"dog": PIXELS[12:18], "cat": PIXELS[:12]})
    write_class_folders(tmp_path / "images" / "test", {"dog": PIXELS[18:]})
    return tmp_path / "images"


def load(root: Path, **settings: Any) -> Splits:
    return load_splits(DataSettings(name="folder", root=str(root), **settings), seed=0)


def test_images_of_one_size_are_decoded_into_memory(root: Path) -> None:
    splits = load(root)
    train, test = cast(MemoryImages, splits.train), cast(MemoryImages, splits.test)
    assert np.array_equal(train.pixels.permute(0, 2, 3, 1).numpy(), PIXELS[:18])
    assert np.array_equal(test.pixels.permute(0, 2, 3, 1).numpy(), PIXELS[18:])
    assert train.labels.tolist() == [0] * 12 + [1] * 6
    assert test.labels.tolist() == [1] * 6
    assert splits.class_names == ("cat", "dog")
    assert splits.image_shape == (3, 8, 10)
    assert (splits.recipe.crop_padding, splits.recipe.flip) == (1, True)


def test_validation_images_are_split_off_without_a_folder(root: Path) -> None:
    splits = load(root, val_fraction=0.33)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (12, 6, 6)


def test_validation_folder_is_the_default_test_set(root: Path) -> None:
    (root / "test").rename(root / "val")
    splits = load(root, val_fraction=0.33)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (12, 6, 6)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_the_validation_folder_are_known(root: Path, name: str) -> None:
    write_class_folders(root / name, {"cat": PIXELS[:3]})
    splits = load(root)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (18, 3, 6)
    (root / name).rename(root / "val")
    (root / "test").rename(root / name)
    with pytest.raises(DataError, match=rf"images: .*val.*got val, {name}; "):
        load(root)


def test_validation_and_test_folders_are_used(root: Path) -> None:
    write_class_folders(root / "val", {"cat": PIXELS[:3]})
    splits = load(root)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (18, 3, 6)


def test_nested_images_are_found_and_other_files_ignored(root: Path) -> None:
    (root / "train" / "cat" / "more").mkdir()
    (root / "train" / "cat" / "000.png").rename(root / "train" / "cat" / "more" / "x.PNG")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._001.png").write_text("not an image")
    (root / "train" / ".hidden").mkdir()
    assert load(root).train.num_images + load(root).val.num_images == 18


@pytest.mark.parametrize(
    "suffix", ["avif", "bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"]
)
def test_images_of_every_known_suffix_are_found(root: Path, suffix: str) -> None:
    Image.fromarray(PIXELS[0]).convert("L" if suffix == "pgm" else "RGB").save(root / "test" / "dog" / f"x.{suffix}")
    assert load(root).test.num_images == 7


def test_root_in_the_home_folder_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert load(Path("~/images")).test.num_images == 6


def test_changed_image_is_decoded_again(root: Path) -> None:
    load(root)
    (root / "train" / "cat" / "003.png").write_bytes(png(PIXELS[0]))
    assert np.array_equal(cast(MemoryImages, load(root).train).pixels[3].permute(1, 2, 0).numpy(), PIXELS[0])


def test_images_of_several_sizes_are_streamed(root: Path) -> None:
    write_class_folders(root / "train" / "cat", {"wide": [PIXELS[0, :, :9]]})
    splits = load(root)
    assert isinstance(splits.train, StreamedImages)
    assert splits.image_shape == (3, 224, 224)


def test_image_that_makes_the_size_224_is_named_with_the_key(root: Path) -> None:
    assert load(root).notes == ()
    write_class_folders(root / "train" / "cat", {"wide": [PIXELS[0, :, :9]]})
    (note,) = load(root).notes
    for part in ("cat/wide/000.png", "9 x 8", "10 x 8", "224 x 224", "data.image_size"):
        assert part in note


def test_images_of_several_sizes_can_be_scaled_to_one(root: Path) -> None:
    wide = random_pixels(1, 24, 60)[0]
    write_class_folders(root / "train" / "cat", {"wide": [wide]})
    splits = load(root, image_size=6)
    assert splits.image_shape == (3, 6, 6)
    middle = torch.from_numpy(wide[:, 18:42].copy()).permute(2, 0, 1)
    expected = functional.resize(middle, [6, 6], antialias=True)
    pixels = cast(MemoryImages, splits.train).pixels
    inside = slice(1, 5)  # the filter of the outer columns reads pixels outside the crop
    assert min(int((image.int() - expected.int())[..., inside].abs().max()) for image in pixels) <= 1
    assert load(root, image_size=5).image_shape == (3, 5, 5)


def test_scaled_images_that_do_not_fit_into_memory_are_streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MEMORY_SHARE", 10**12)
    splits = load(root, image_size=6)
    assert isinstance(splits.train, StreamedImages)
    assert splits.image_shape == (3, 6, 6)
    images, _ = next(iter(splits.test.evaluation_batches(4, torch.device("cpu"))))
    assert images.shape == (4, 3, 6, 6)
    images, _ = next(iter(splits.train.training_batches(4, 0, torch.device("cpu"))))
    assert images.shape == (4, 3, 6, 6)


def test_images_that_do_not_fit_into_memory_are_streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MEMORY_SHARE", 10**12)
    splits = load(root)
    assert isinstance(splits.test, StreamedImages)
    (note,) = splits.notes
    assert f"{24 * 8 * 10 * 3} bytes" in note
    assert "224 x 224" in note


def test_damaged_image_is_named_by_its_file(root: Path) -> None:
    file = root / "train" / "cat" / "007.png"
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(DataError, match=r"train/cat/007\.png: "):
        load(root)


def damage(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:150])
    return file


def test_damaged_image_among_several_sizes_is_found_at_the_start(root: Path) -> None:
    write_class_folders(root / "train" / "cat", {"wide": [PIXELS[0, :, :9]]})
    damage(root / "train" / "cat" / "007.png")
    damage(root / "train" / "dog" / "003.png")
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=r"train/cat/007\.png: .*2 damaged images.*data\.on_damage"):
            load(root)


@pytest.mark.parametrize("several_sizes", [False, True])
def test_damaged_images_can_be_skipped_and_are_counted(root: Path, several_sizes: bool) -> None:
    if several_sizes:
        write_class_folders(root / "train" / "cat", {"wide": [PIXELS[0, :, :9]]})
    damage(root / "train" / "cat" / "000.png")
    (root / "test" / "dog" / "002.png").write_text("not an image")
    for _ in range(2):
        splits = load(root, on_damage="skip")
        assert isinstance(splits.train, StreamedImages) == several_sizes
        assert splits.train.num_images + splits.val.num_images == 17 + several_sizes
        assert splits.test.num_images == 5
        note = splits.notes[0]
        assert f"2 of {24 + several_sizes} images" in note
        assert "cat/000.png" in note
        assert len(splits.notes) == 1 + several_sizes
    with pytest.raises(DataError, match=r"\.png: .*data\.on_damage"):
        load(root)


def test_repaired_image_is_checked_again(root: Path) -> None:
    file = root / "train" / "cat" / "000.png"
    whole = file.read_bytes()
    damage(file)
    assert load(root, on_damage="skip").notes
    file.write_bytes(whole)
    assert load(root, on_damage="skip").notes == ()


def test_class_of_damaged_images_alone_is_refused(root: Path) -> None:
    write_class_folders(root / "train", {"eel": PIXELS[:2]})
    for file in (root / "train" / "eel").iterdir():
        damage(file)
    with pytest.raises(DataError, match=r"data\.on_damage: .*'eel' for train; .*eel/000\.png"):
        load(root, on_damage="skip")


def test_whole_image_that_cannot_be_used_is_not_skipped(root: Path) -> None:
    Image.fromarray(np.zeros((8, 10), np.uint16)).save(root / "train" / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"cat/deep\.png: .*mode I;16"):
        load(root, on_damage="skip")


def test_skipping_is_refused_for_other_data() -> None:
    with pytest.raises(DataError, match=r"data\.on_damage: .*, got skip for digits; "):
        load_splits(DataSettings(name="digits", on_damage="skip"), seed=0)


def test_files_left_out_are_counted_by_suffix(root: Path) -> None:
    for name in ("a.heic", "b.HEIC", "notes.txt", "._x.png", ".DS_Store", "none"):
        (root / "train" / "cat" / name).write_text("x")
    (root / "train" / "stray.png").write_bytes(png(PIXELS[0]))
    (note,) = load(root).notes
    assert "2 of .heic, 1 of .txt" in note
    assert "1 of (outside the class folders)" in note
    assert "1 of no suffix" in note
    assert "png" not in note
    assert "DS_Store" not in note


def test_class_of_unknown_suffixes_is_refused_with_them(root: Path) -> None:
    (root / "train" / "eel").mkdir()
    (root / "train" / "eel" / "a.heic").write_text("x")
    with pytest.raises(DataError, match=r"train/eel: .*got none but 1 of \.heic; .*\.avif, "):
        load(root)


def test_images_are_upright_and_opaque_in_memory_and_streamed(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(PIXELS[0])
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "test" / "dog" / "turned.png", exif=exif)
    clear = Image.fromarray(PIXELS[0])
    clear.putalpha(0)
    clear.save(root / "test" / "dog" / "white.png")
    splits = load(root)
    test = cast(MemoryImages, splits.test).pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(test[-2], PIXELS[0])
    assert (test[-1] == 255).all()
    write_class_folders(root / "train" / "cat", {"wide": [PIXELS[0, :, :9]]})
    images, _ = next(iter(load(root).test.evaluation_batches(8, torch.device("cpu"))))
    assert torch.equal(images[-2], next(iter(streamed(upright, root)))[0])
    assert (images[-1].amin((1, 2)) == images[-1].amax((1, 2))).all()


def streamed(image: Image.Image, root: Path) -> Any:
    image.save(root / "upright.png")
    recipe = load(root).recipe
    split = StreamedImages([str(root / "upright.png")], torch.zeros(1, dtype=torch.int64), recipe)
    return (images for images, _ in split.evaluation_batches(1, torch.device("cpu")))


def test_class_without_images_is_refused(root: Path) -> None:
    (root / "train" / "eel").mkdir()
    with pytest.raises(DataError, match=r"train/eel: .*, got none; .*\.bmp, "):
        load(root)


def test_test_classes_absent_from_training_are_refused(root: Path) -> None:
    write_class_folders(root / "test", {"eel": PIXELS[:1], "fox": PIXELS[:1]})
    with pytest.raises(DataError, match=r"test: .*train, got eel, fox; choose from cat, dog"):
        load(root)


def test_part_without_class_folders_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "flat" / "train").mkdir(parents=True)
    (root / "test").rename(tmp_path / "flat" / "test")
    with pytest.raises(DataError, match=r"flat/train: .*, got no folders; "):
        load(tmp_path / "flat")


@pytest.mark.parametrize(("part", "missing"), [("train", "training"), ("test", "test")])
def test_missing_part_is_refused(root: Path, part: str, missing: str) -> None:
    (root / part).rename(root / "other")
    with pytest.raises(DataError, match=rf"images: .*, got no {missing} images; .*train/<class>/\*\.png"):
        load(root)


def test_broken_link_is_named(root: Path) -> None:
    (root / "train" / "cat" / "000.png").unlink()
    (root / "train" / "cat" / "000.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"train/cat/000\.png"):
        load(root)


def test_class_folder_may_be_a_link_but_not_cyclic(root: Path) -> None:
    (root / "train" / "cat" / "circle").symlink_to(root / "train")
    (root / "test" / "dog").rename(root / "gone")
    (root / "test" / "dog").symlink_to(root / "gone")
    assert load(root).test.num_images == 6


@pytest.mark.parametrize("link", ["train", "train/cat", "train/cat/000.png"])
def test_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path, link: str) -> None:
    (root / link).rename(tmp_path / "elsewhere")
    (root / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{link}: .*images, got .*elsewhere; .*data\.root"):
        load(root)
    assert load_splits(DataSettings(name="folder", root=str(move_up(root, tmp_path))), seed=0).test.num_images == 6


def move_up(root: Path, tmp_path: Path) -> Path:
    """Return a folder with both the data set and the targets of its links."""
    for part in ("train", "test"):
        (tmp_path / part).symlink_to(root / part)
    return tmp_path


def test_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert load(tmp_path / "link").test.num_images == 6


def test_pipe_is_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"cat/pipe\.png: .*pipe"):
        load(root)
