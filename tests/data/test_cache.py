"""The cache of decoded data sets: written once and completely, shared by processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import png, random_pixels, write_parquet
from filelock import FileLock

import graftpop
from graftpop.data.cache import damaged_files, decoded, is_stored
from graftpop.data.decoding import Block
from graftpop.data.source import Contents, Part, Source
from graftpop.errors import DataError

PIXELS = random_pixels(10, 4, 6)
LABELS = np.arange(10)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graftpop" / "decoded"


def blocks(num_images: int) -> Iterator[Block]:
    for start in range(0, num_images, 3):
        rows = slice(start, min(start + 3, num_images))
        yield PIXELS[rows], LABELS[rows]


def source(*files: Path, num_images: int = 10) -> Source:
    def contents() -> Contents:
        return Contents(("a", "b"), 4, 6, {"train": Part(num_images, blocks(10)), "test": Part(3, blocks(3))})

    return Source("toy", files, contents, flip=True)


def never() -> Contents:
    raise AssertionError("decoded again")


def stored_folder(cache: Path) -> Path:
    folders = [path for path in cache.iterdir() if path.is_dir()]
    assert len(folders) == 1
    return folders[0]


def test_decoded_images_are_read_from_the_cache(cache: Path) -> None:
    for found in (source(), replace(source(), open=never)):
        images = decoded(found)
        pixels, labels = images.parts["train"]
        assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), PIXELS)
        assert labels.dtype == torch.int64
        assert labels.tolist() == LABELS.tolist()
        assert images.parts["test"][0].shape == (3, 3, 4, 6)
        assert images.class_names == ("a", "b")
    assert sorted(file.name for file in stored_folder(cache).iterdir()) == [
        "meta.json",
        "test_labels.npy",
        "test_pixels.npy",
        "train_labels.npy",
        "train_pixels.npy",
    ]


def test_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    images = decoded(source())
    np.testing.assert_allclose(images.mean, PIXELS.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(images.std, PIXELS.std(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_deviation_of_a_constant_color_is_one() -> None:
    gray = np.full((2, 4, 6, 3), 7, np.uint8)
    parts = {name: Part(2, iter([(gray, LABELS[:2])])) for name in ("train", "test")}
    images = decoded(replace(source(), open=lambda: Contents(("a", "b"), 4, 6, parts)))
    assert images.std == (1.0, 1.0, 1.0)


def test_writing_to_the_pixels_does_not_change_the_cache() -> None:
    decoded(source()).parts["train"][0].zero_()
    assert decoded(source()).parts["train"][0].numpy().any()


def test_changed_file_is_decoded_again(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "images"
    file.write_text("one")
    found = source(file)
    decoded(found)
    assert is_stored(found)
    os.utime(file, ns=(1, 1))
    assert not is_stored(found)
    decoded(source(file))
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_file_of_another_size_and_the_same_time_is_decoded_again(tmp_path: Path) -> None:
    file = tmp_path / "images"
    for content, was_stored in (("one", False), ("three", False), ("seven", True)):
        file.write_text(content)
        os.utime(file, ns=(1, 1))
        assert is_stored(source(file)) == was_stored
        decoded(source(file))


@pytest.mark.parametrize("damage", ["no meta", "half of meta", "half of the pixels", "no labels", "empty labels"])
def test_damaged_cache_is_rebuilt(damage: str, cache: Path) -> None:
    decoded(source())
    folder = stored_folder(cache)
    file = folder / ("meta.json" if "meta" in damage else f"train_{damage.split()[-1]}.npy")
    content = file.read_bytes()
    file.unlink()
    if not damage.startswith("no "):
        file.write_bytes(content[: len(content) // 2] if "half" in damage else b"")
    assert not is_stored(source())
    assert np.array_equal(decoded(source()).parts["train"][0].permute(0, 2, 3, 1).numpy(), PIXELS)


def test_leftovers_of_a_killed_process_are_ignored(cache: Path) -> None:
    decoded(source())
    folder = stored_folder(cache)
    partial = folder.with_name(folder.name + ".partial")
    folder.rename(partial)
    (partial / "train_pixels.npy").write_bytes(b"torn")
    assert np.array_equal(decoded(source()).parts["train"][0].permute(0, 2, 3, 1).numpy(), PIXELS)
    assert not partial.exists()


def test_failed_decoding_leaves_nothing_in_the_cache(cache: Path) -> None:
    def failing() -> Iterator[Block]:
        yield from blocks(3)
        raise DataError("image 4 is damaged")

    parts = {"train": Part(10, failing()), "test": Part(3, blocks(3))}
    with pytest.raises(DataError, match="image 4 is damaged"):
        decoded(replace(source(), open=lambda: Contents(("a",), 4, 6, parts)))
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_part_with_fewer_images_than_announced_is_refused() -> None:
    with pytest.raises(DataError, match=r"^cache: .*train.* 11 images, got 10; "):
        decoded(source(num_images=11))


def test_unwritable_cache_is_refused_with_folder_and_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cache: .*/file/graftpop/decoded .*, got Not a directory; .*XDG_CACHE_HOME"):
        decoded(source())


def test_timed_out_wait_names_the_lock_and_its_purpose(cache: Path) -> None:
    decoded(source())
    folder = stored_folder(cache)
    (folder / "meta.json").unlink()
    with (
        FileLock(f"{folder}.lock"),
        pytest.raises(DataError, match=r"cache: .*0\.1 s for .*/toy-.*\.lock, .* to decode toy; "),
    ):
        decoded(source(), timeout_s=0.1)


def test_images_that_were_checked_need_no_lock(tmp_path: Path, cache: Path) -> None:
    """As in a cache that is prepared once and then read-only."""
    files = [str(tmp_path / name) for name in ("whole.png", "damaged.png")]
    whole = png(random_pixels(1)[0])
    for file, content in zip(files, (whole, whole[:40]), strict=True):
        Path(file).write_bytes(content)
    found = damaged_files(files, "toy")
    assert list(found) == files[1:]
    (lock,) = cache.with_name("checked").glob("*.lock")
    lock.unlink()
    lock.mkdir()
    assert damaged_files(files, "toy") == found


def test_two_concurrent_processes_decode_once(tmp_path: Path, cache: Path) -> None:
    for part in ("train", "test"):
        write_parquet(
            tmp_path / f"{part}.parquet", [png(image) for image in random_pixels(500)], {"label": list(range(500))}
        )
    code = (
        "import sys, glob, os; from graftpop.data import load_splits;"
        "from graftpop.settings import DataSettings;"
        "other = os.fork();"  # in a process that has imported torch and no more
        "splits = load_splits(DataSettings(name='parquet', root=sys.argv[1]), seed=0);"
        "file, = glob.glob(sys.argv[2] + '/*/meta.json');"
        "os.write(1, f'{os.stat(file).st_ino} {int(splits.train.pixels.sum())}\\n'.encode());"  # a line at once
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) if other else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(graftpop.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    output = subprocess.check_output(
        [sys.executable, "-c", code, str(tmp_path), str(cache)], env=environment, timeout=50, text=True
    )
    first, second = output.splitlines()
    assert first == second
    assert int(first.split()[1]) == int(random_pixels(500).sum())
    assert not list(cache.glob("*.partial"))
