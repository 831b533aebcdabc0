"""Images as files in class folders: train/<class>/*.png and so on.

Images of one size, or scaled to one by `data.image_size`, are decoded into memory if they fit. All others are streamed
from their files.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graftpop.data.cache import is_stored
from graftpop.data.decoding import decode_blocks, size_of
from graftpop.data.paths import check_inside
from graftpop.data.source import Color, Contents, Part, Source, name_parts, root_folder
from graftpop.errors import DataError
from graftpop.settings import DataSettings

__all__ = ["class_folders", "find_folder", "folder_source", "ImageFiles"]

SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LAYOUT: Final = "train/<class>/*.png and test/<class>/*.png (or val/)"
MEMORY_SHARE: Final = 4  # decoded images may take a quarter of the machine's memory


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels."""

    class_names: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[str, int]]]  # (path, label) by part: "train", "test" and possibly "val"


def find_folder(data: DataSettings) -> Source | ImageFiles:
    """Return the images in `data.root`: a `Source` to decode into memory, or files to stream.

    They are decoded if they have one size, or `data.image_size` is set, and they fit into a quarter of the memory.

    Raises:
        DataError: no such folder, or its layout is wrong; see `class_folders`.
    """
    images = class_folders(root_folder(data))
    files = [file for part in images.parts.values() for file, _ in part]
    height, width = (data.image_size, data.image_size) if data.image_size else size_of(files[0], files[0])
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if len(files) * height * width * 3 > memory_bytes // MEMORY_SHARE:
        return images
    source = folder_source("folder", images, flip=True, image_size=data.image_size)
    if data.image_size or is_stored(source) or all(size_of(file, file) == (height, width) for file in files):
        return source
    return images


def folder_source(
    name: str,
    images: ImageFiles,
    *,
    flip: bool,
    mean_std: tuple[Color, Color] | None = None,
    image_size: int | None = None,
) -> Source:
    """Return a data set of image files, to be decoded into memory.

    Args:
        name: name of the data set.
        images: the files and labels.
        flip: whether mirrored images are as good as the originals.
        mean_std: mean and deviation of the pixels in [0, 1]; None: computed from the training images.
        image_size: side of the squares that images are cropped and scaled to, in pixels. None: all must have the size
            of the first, checked when they are decoded.
    """

    def open_files() -> Contents:
        first = images.parts["train"][0][0]
        height, width = (image_size, image_size) if image_size else size_of(first, first)
        return Contents(
            images.class_names,
            height,
            width,
            {
                part: Part(
                    len(files),
                    decode_blocks(
                        ((file, file, label) for file, label in files), height, width, scaled=image_size is not None
                    ),
                )
                for part, files in images.parts.items()
            },
        )

    every_file = tuple(Path(file) for part in images.parts.values() for file, _ in part)
    return Source(name, every_file, open_files, flip=flip, mean_std=mean_std, image_size=image_size)


def class_folders(root: Path) -> ImageFiles:
    """Return the image files below train/, val/ and test/; the classes are the folders of train/, sorted by name.

    Args:
        root: folder of the data set.

    Raises:
        DataError: a part or a class is empty, a class is absent from train/, or a link leads out of `root`.
    """
    found = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    folders = name_parts(found, str(root), LAYOUT)
    class_names = tuple(_class_names(folders["train"], root))
    numbers = {name: number for number, name in enumerate(class_names)}
    parts = {}
    for part, folder in folders.items():
        names = _class_names(folder, root)
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise DataError(
                f"{folder}: its classes must be among those of {folders['train']}, "
                f"got {_first_names(unknown)}; choose from {_first_names(class_names)}"
            )
        parts[part] = [(file, numbers[name]) for name in names for file in _image_files(folder / name, root)]
    return ImageFiles(class_names, parts)


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _class_names(folder: Path, root: Path) -> list[str]:
    check_inside(folder, root)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: must have one folder of images per class, got no folders; expected {LAYOUT}")
    return names


def _image_files(folder: Path, root: Path) -> list[str]:
    check_inside(folder, root)
    files = sorted(_walk(folder, root))
    if not files:
        raise DataError(f"{folder}: a class must have images, got none; expected files of {', '.join(SUFFIXES)}")
    return files


def _walk(folder: Path, root: Path) -> Iterator[str]:
    """Yield the image files below a folder; links to files are followed, links to folders are not."""
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                    if entry.is_symlink():
                        check_inside(Path(entry.path), root)
                    if not entry.is_file():
                        raise DataError(
                            f"{entry.path}: must be a file, got a broken link, a pipe or a device; remove it"
                        )
                    yield entry.path
