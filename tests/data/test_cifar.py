"""CIFAR in every layout, from every place, and downloaded."""

import hashlib
import http.server
import io
import os
import pickle
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from data_makers import png, random_pixels, write_cifar10_batches, write_class_folders, write_parquet
from PIL import Image
from pyarrow import parquet
from torchvision.datasets import CIFAR10, CIFAR100

from graftpop.data import DATASETS, MemoryImages, Splits, download, load_splits
from graftpop.data.cifar_pickles import read_batches, unpickled
from graftpop.data.source import Source
from graftpop.errors import DataError
from graftpop.settings import DataSettings

PIXELS = random_pixels(36)
LABELS = [number % 3 for number in range(36)]
REAL = Path(os.environ.get("GRAFTPOP_DATA", "absent")) / "cifar10"
needs_cifar10 = pytest.mark.skipif(not REAL.is_dir(), reason="needs CIFAR-10 in $GRAFTPOP_DATA/cifar10")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's data and the network from the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAFTPOP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for archive in (CIFAR10, CIFAR100):
        monkeypatch.setattr(archive, "url", "http://127.0.0.1:9/nobody-listens.tar.gz")


def load(name: str = "cifar10", **settings: Any) -> Splits:
    return load_splits(DataSettings(name=name, **settings), seed=0)


def assert_is_made_of_pixels(splits: Splits) -> None:
    for split, rows in ((splits.train, slice(0, 30)), (splits.test, slice(30, 36))):
        images = cast(MemoryImages, split)
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), PIXELS[rows])
        assert images.labels.tolist() == LABELS[rows]


def write_tables(folder: Path) -> None:
    for part, rows in (("train", slice(0, 30)), ("test", slice(30, 36))):
        write_parquet(
            folder / f"{part}-00000.parquet",
            [png(image) for image in PIXELS[rows]],
            {"label": LABELS[rows]},
            class_names={"label": ["cat", "dog", "frog"]},
        )


def write_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in write_cifar10_batches(folder / "cifar-10-batches-py", PIXELS, LABELS).items():
        monkeypatch.setattr(CIFAR10, name, value)


@pytest.mark.parametrize("place", ["root", "data", "cache"])
def test_parquet_files_are_found_in_every_place(tmp_path: Path, place: str) -> None:
    folder = {
        "root": tmp_path / "mine",
        "data": tmp_path / "data/cifar10",
        "cache": tmp_path / "cache/graftpop/cifar10",
    }[place]
    write_tables(folder)
    splits = load(root=str(folder)) if place == "root" else load()
    assert_is_made_of_pixels(splits)
    assert splits.class_names == ("cat", "dog", "frog")


def test_graftpop_data_comes_before_the_cache(tmp_path: Path) -> None:
    write_tables(tmp_path / "data" / "cifar10")
    for part in ("train", "test"):
        write_parquet(tmp_path / "cache/graftpop/cifar10" / f"{part}.parquet", [png(PIXELS[0])] * 3, {"label": [0] * 3})
    assert_is_made_of_pixels(load())


def test_published_batches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "data" / "cifar10", monkeypatch)
    splits = load()
    assert_is_made_of_pixels(splits)
    assert splits.class_names == ("cat", "dog", "frog")
    assert splits.recipe.flip


@pytest.mark.parametrize("layout", ["tables", "batches", "folders"])
def test_images_of_every_layout_are_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    folder = tmp_path / "data" / "cifar10"
    if layout == "tables":
        write_tables(folder)
    elif layout == "batches":
        write_batches(folder, monkeypatch)
    else:
        for part, rows in (("train", slice(0, 30)), ("test", slice(30, 36))):
            write_class_folders(folder / part, {"cat": list(PIXELS[rows])})
    splits = load(image_size=16)
    expected = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in PIXELS]
    for split, rows in ((splits.train, slice(0, 30)), (splits.test, slice(30, 36))):
        pixels = cast(MemoryImages, split).pixels.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(pixels, np.stack(expected[rows]))
    assert splits.image_shape == (3, 16, 16)
    assert splits.recipe.crop_padding == 2


def test_published_batches_of_cifar100_have_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    folder = tmp_path / "data" / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    batch = {"data": PIXELS.transpose(0, 3, 1, 2).reshape(36, -1), "fine_labels": LABELS, "coarse_labels": [0] * 36}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", write("train", batch)]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", write("test", batch)]])
    names = {"fine_label_names": ["cat", "dog", "frog"], "coarse_label_names": ["animal"]}
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": write("meta", names)})
    splits = load("cifar100")
    assert cast(MemoryImages, splits.train).labels.tolist() == LABELS
    assert splits.class_names == ("cat", "dog", "frog")


def test_batches_with_another_md5_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "data" / "cifar10", monkeypatch)
    with open(tmp_path / "data" / "cifar10" / "cifar-10-batches-py" / "data_batch_3", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"cifar10/cifar-10-batches-py: .*MD5, got "):
        load()


def test_class_folders_are_read(tmp_path: Path) -> None:
    order = np.argsort(LABELS[:30], kind="stable")
    for part, rows in (("train", order), ("test", np.arange(30, 36))):
        write_class_folders(
            tmp_path / "data" / "cifar10" / part,
            {
                name: [PIXELS[row] for row in rows if LABELS[row] == label]
                for label, name in enumerate(("cat", "dog", "frog"))
            },
        )
    splits = load()
    train = cast(MemoryImages, splits.train)
    assert np.array_equal(train.pixels.permute(0, 2, 3, 1).numpy(), PIXELS[order])
    assert splits.class_names == ("cat", "dog", "frog")


def test_cifar_is_normalized_shifted_and_mirrored_as_published(tmp_path: Path) -> None:
    write_tables(tmp_path / "data" / "cifar10")
    recipe = load().recipe
    assert recipe.mean == (0.4914, 0.4822, 0.4465)
    assert recipe.std == (0.2023, 0.1994, 0.2010)
    assert (recipe.crop_padding, recipe.flip) == (4, True)


@pytest.mark.parametrize(("label", "num_classes"), [(None, 36), ("coarse_label", 3)])
def test_cifar100_uses_its_fine_labels_by_default(tmp_path: Path, label: str | None, num_classes: int) -> None:
    for part in ("train", "test"):
        write_parquet(
            tmp_path / "data" / "cifar100" / f"{part}.parquet",
            [png(image) for image in PIXELS],
            {"coarse_label": LABELS, "fine_label": list(range(36))},
            class_names={"coarse_label": list("abc"), "fine_label": [str(n) for n in range(36)]},
        )
    splits = load("cifar100", label=label)
    assert len(splits.class_names) == num_classes
    assert splits.recipe.mean == (0.5071, 0.4865, 0.4409)


def test_absent_cifar_is_refused_with_places_layouts_and_remedies(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load()
    message = str(caught.value)
    for part in (
        f"{tmp_path}/data/cifar10 (GRAFTPOP_DATA)",
        f"{tmp_path}/cache/graftpop/cifar10 (cache)",
        "cifar-10-batches-py/",
        "train*.parquet",
        "train/<class>/*.png",
        "download of http://127.0.0.1:9/",
        "Connection refused",
        "set GRAFTPOP_DATA",
        "cifar10/, or data.root",
    ):
        assert part in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_absent_cifar_without_the_variable_is_refused_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFTPOP_DATA")
    with pytest.raises(DataError, match=r"GRAFTPOP_DATA \(not set now\).*cifar100/"):
        load("cifar100")


def test_cifar_is_not_downloaded_if_data_root_is_set(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_tables(tmp_path / "data" / "cifar10")
    with pytest.raises(DataError, match=r"data\.name: .*cifar10.*/mine \(data\.root\); .*; correct data\.root"):
        load(root=str(tmp_path / "mine"))


@pytest.fixture
def archive_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve an archive of the published layout on this machine."""
    write_batches(tmp_path / "server", monkeypatch)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(tmp_path / "server" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.getvalue(), usedforsecurity=False).hexdigest())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(archive.getvalue())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
        server.shutdown()
        thread.join(10)


def test_cifar_is_downloaded_into_the_cache_without_output(
    tmp_path: Path, archive_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CIFAR10, "url", archive_url)
    assert_is_made_of_pixels(load())
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nobody-listens.tar.gz")
    assert_is_made_of_pixels(load())
    assert [path.name for path in (tmp_path / "cache" / "graftpop" / "cifar10").iterdir()] == ["cifar-10-batches-py"]
    assert capfd.readouterr() == ("", "")


def test_archive_with_another_md5_is_not_unpacked(
    tmp_path: Path, archive_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "url", archive_url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match=r"failed \(.*MD5.*\); set GRAFTPOP_DATA"):
        load()
    assert list((tmp_path / "cache" / "graftpop" / "cifar10").iterdir()) == []


@needs_cifar10
def test_real_cifar10_has_its_images_and_classes() -> None:
    source = cast(Source, DATASETS["cifar10"](DataSettings(root=str(REAL))))
    contents = source.open()
    assert {name: part.num_images for name, part in contents.parts.items()} == {"train": 50_000, "test": 10_000}
    assert (contents.height, contents.width) == (32, 32)
    assert contents.class_names == (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )


@needs_cifar10
def test_real_cifar10_images_equal_those_of_pillow(tmp_path: Path) -> None:
    rows = {}
    for part in ("train", "test"):
        with parquet.ParquetFile(next(REAL.glob(f"{part}-*.parquet"))) as table:
            rows[part] = next(table.iter_batches(300))
        (tmp_path / "data" / "cifar10").mkdir(parents=True, exist_ok=True)
        with parquet.ParquetWriter(tmp_path / "data" / "cifar10" / f"{part}.parquet", rows[part].schema) as writer:
            writer.write_batch(rows[part])
    splits = load(val_fraction=0.2)
    assert (splits.train.num_images, splits.val.num_images, splits.test.num_images) == (240, 60, 300)
    pixels = cast(MemoryImages, splits.train).pixels.permute(0, 2, 3, 1).numpy()
    for row in (0, 123, 299):
        encoded = rows["train"].column("img")[row]["bytes"].as_py()
        assert np.array_equal(pixels[row], np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))
    assert cast(MemoryImages, splits.train).labels.tolist() == rows["train"].column("label").to_pylist()


# hostile archives


def test_batch_with_foreign_objects_is_refused_and_calls_nothing(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    for content in (Call(), {"data": Call()}, {"data": os.system}, {"data": np.array([Call()], object)}):
        with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}: "):
            unpickled(pickle.dumps(content), tmp_path)
    assert not (tmp_path / "executed").exists()
    assert np.array_equal(unpickled(pickle.dumps({"data": PIXELS}), tmp_path)["data"], PIXELS)


def test_batches_pickled_by_python_2_are_read(tmp_path: Path) -> None:
    # the pickle that Python 2.7 writes for {"labels": [1], "data": numpy.zeros((1, 3), "uint8")}, by protocol 2
    old = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03K\x01aU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnum"
        b"py\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01K\x03\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\t(K\x03U"
        b"\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\x00\x01\x02tbu."
    )
    batch = unpickled(old, tmp_path)
    assert batch["labels"] == [1]
    assert batch["data"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "batch",
    [
        {},
        [],
        7,
        {"data": PIXELS, "labels": LABELS},
        {"data": [0], "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [0.5]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
    ],
)
def test_batch_of_another_structure_is_refused(tmp_path: Path, batch: Any) -> None:
    content = pickle.dumps(batch)
    (tmp_path / "batch").write_bytes(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}: "):
        read_batches(tmp_path, {"batch": md5}, "labels")


def hostile_archive(kind: str) -> bytes:
    """Return a truncated archive, or one with a member outside its folder, a link or a device."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"cifar-10-batches-py/{'../../../escaped' if kind == 'up' else 'link'}")
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        elif kind == "device":
            member.type = tarfile.CHRTYPE
        tar.addfile(member)
        member = tarfile.TarInfo("cifar-10-batches-py/large")
        member.size = 10**6
        tar.addfile(member, io.BytesIO(os.urandom(10**6)))
    return archive.getvalue()[: 10**5 if kind == "cut" else None]


@pytest.mark.parametrize("kind", ["up", "link", "device", "cut", "nonsense"])
def test_hostile_or_damaged_archive_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    content = b"nonsense" if kind == "nonsense" else hostile_archive(kind)
    (tmp_path / "archive").write_bytes(content)
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "archive").as_uri())
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
    with pytest.raises(DataError, match=r"file:.*/archive to .* failed \(") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("escaped"))
    assert list((tmp_path / "cache" / "graftpop" / "cifar10").iterdir()) == []


def test_endless_download_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 10**6)
    monkeypatch.setattr(CIFAR10, "url", "file:///dev/zero")
    with pytest.raises(DataError, match=r"failed \(.*1000000 bytes\)"):
        load()


@pytest.mark.parametrize("excess", [0, 1])
def test_download_is_limited_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: int) -> None:
    content = hostile_archive("cut")
    (tmp_path / "archive").write_bytes(content)
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", len(content) - excess)
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "archive").as_uri())
    with pytest.raises(DataError, match=rf"\(.*{len(content) - 1} bytes\)" if excess else r"\(.*MD5.*\)"):
        load()


def test_download_times_out(tmp_path: Path, archive_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LOCK_TIMEOUT_S", 0.0)
    monkeypatch.setattr(CIFAR10, "url", archive_url)
    with pytest.raises(DataError, match=r"failed \(.* 0 s\)"):
        load()
    assert list((tmp_path / "cache" / "graftpop" / "cifar10").iterdir()) == []


def test_unpacked_archive_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    download.download_archive("http://127.0.0.1:9/", "0" * 32, tmp_path / "cifar10", "cifar-10-batches-py")
    assert [path.name for path in (tmp_path / "cifar10").iterdir()] == ["cifar-10-batches-py"]
