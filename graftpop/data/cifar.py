"""CIFAR-10 and CIFAR-100: found on this node in any of the usual layouts, otherwise downloaded.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graftpop.data.cache import cache_folder
from graftpop.data.cifar_pickles import SIDE, read_batches, read_class_names
from graftpop.data.decoding import scaled_pixels
from graftpop.data.download import download_archive
from graftpop.data.folder import class_folders, folder_source
from graftpop.data.parquet import parquet_files, parquet_source
from graftpop.data.source import Color, Contents, Part, Source, root_folder
from graftpop.errors import DataError
from graftpop.settings import DataSettings

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

__all__ = ["find_cifar10", "find_cifar100", "is_to_download"]


@dataclass(frozen=True)
class _Variant:
    name: str
    batches: str  # folder in the published archive
    labels: str  # key of the labels in a published batch
    label: str | None  # Parquet: the usual label column, if there are several
    mean_std: tuple[Color, Color]


# CIFAR-10: as in the released filter-grafting code (fxmeng/filter-grafting); each deviation is the mean of the
# deviations within images, smaller than that of all pixels. CIFAR-100: as in e.g. weiaicunzai/pytorch-cifar100.
CIFAR10_VARIANT: Final = _Variant(
    "cifar10", "cifar-10-batches-py", "labels", None, ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
)
CIFAR100_VARIANT: Final = _Variant(
    "cifar100", "cifar-100-python", "fine_labels", "fine_label", ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
)


def find_cifar10(data: DataSettings) -> Source:
    """Return CIFAR-10 from the first place that has it; see `_find`."""
    return _find(CIFAR10_VARIANT, data)


def find_cifar100(data: DataSettings) -> Source:
    """Return CIFAR-100, with its 100 fine classes, from the first place that has it; see `_find`."""
    return _find(CIFAR100_VARIANT, data)


def _find(variant: _Variant, data: DataSettings) -> Source:
    """Return the data set from `data.root` alone if it is set; else $GRAFTPOP_DATA, the cache, or a download.

    Raises:
        DataError: not found, and not downloaded.
    """
    places = _places(variant, data)
    for folder in places.values():
        source = _source_in(folder, variant, data)
        if source is not None:
            return source
    looked = ", ".join(f"{folder} ({kind})" for kind, folder in places.items())
    message = (
        f"data.name: no {variant.name} in {looked}; looked for {variant.batches}/ (the published batches), "
        "train*.parquet with test*.parquet, and train/<class>/*.png with test/<class>/*.png"
    )
    if data.root is not None:
        raise DataError(f"{message}; correct data.root, or leave it out to download the data")
    try:
        cached, archive = places["cache"], _archive(variant)
        download_archive(archive.url, archive.tgz_md5, cached, variant.batches)
    except DataError as error:
        unset = "" if "GRAFTPOP_DATA" in places else " (not set now)"
        raise DataError(
            f"{message}; {error}; set GRAFTPOP_DATA{unset} to a folder that holds {variant.name}/, or "
            "data.root to the folder of the images"
        ) from error
    return _batches_source(cached, variant, data.image_size)


def is_to_download(data: DataSettings) -> bool:
    """Return whether a data set would be downloaded, because no place of this node has it."""
    variant = next((one for one in (CIFAR10_VARIANT, CIFAR100_VARIANT) if one.name == data.name), None)
    return (
        variant is not None
        and data.root is None
        and not any(_source_in(folder, variant, data) for folder in _places(variant, data).values())
    )


def _places(variant: _Variant, data: DataSettings) -> dict[str, Path]:
    """Return the folders to look in, in their order, by the key or variable that names them."""
    if data.root is not None:
        return {"data.root": root_folder(data)}
    shared = os.environ.get("GRAFTPOP_DATA")
    places = {"GRAFTPOP_DATA": Path(shared).expanduser() / variant.name} if shared else {}
    return {**places, "cache": cache_folder() / variant.name}


def _source_in(folder: Path, variant: _Variant, data: DataSettings) -> Source | None:
    if (folder / variant.batches).is_dir():
        return _batches_source(folder, variant, data.image_size)
    if files := parquet_files(folder):
        source = parquet_source(
            variant.name, folder, files, data.label, usual_label=variant.label, image_size=data.image_size
        )
        return replace(source, mean_std=variant.mean_std)
    if (folder / "train").is_dir():
        images = class_folders(folder)
        return folder_source(variant.name, images, flip=True, mean_std=variant.mean_std, image_size=data.image_size)
    return None


def _archive(variant: _Variant) -> "type[CIFAR10]":
    from torchvision.datasets import CIFAR10, CIFAR100

    archive: type[CIFAR10] = CIFAR10 if variant is CIFAR10_VARIANT else CIFAR100
    return archive


def _batches_source(folder: Path, variant: _Variant, image_size: int | None) -> Source:
    batches = folder / variant.batches
    side = image_size or SIDE

    def open_batches() -> Contents:
        archive = _archive(variant)
        names = read_class_names(batches, archive.meta["filename"], archive.meta["md5"], archive.meta["key"])
        parts = {}
        for part, files in (("train", archive.train_list), ("test", archive.test_list)):
            pixels, labels = read_batches(batches, dict(files), variant.labels)
            parts[part] = Part(len(pixels), iter([(pixels if side == SIDE else scaled_pixels(pixels, side), labels)]))
        return Contents(tuple(names), side, side, parts)

    files = tuple(file for file in sorted(batches.iterdir()) if file.is_file())
    return Source(variant.name, files, open_batches, flip=True, mean_std=variant.mean_std, image_size=image_size)
