"""Images as files in class folders: train/<class>/*.png and so on.

Images of one size, or scaled to one by `data.image_size`, are decoded into memory if they fit. All others are streamed
from their files, after each has been decoded once on the node to find damaged ones.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from graftpop.data.cache import damaged_files, is_stored, machine_bytes
from graftpop.data.decoding import DamagedImage, decode_blocks, size_of
from graftpop.data.paths import check_inside
from graftpop.data.source import Color, Contents, Part, Source, name_parts, root_folder
from graftpop.data.streamed import INPUT_SIDE
from graftpop.errors import DataError
from graftpop.settings import DataSettings

__all__ = ["class_folders", "find_folder", "folder_source", "ImageFiles"]

SUFFIXES: Final = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
FOLDERS: Final = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
LAYOUT: Final = "train/<class>/*.png and test/<class>/*.png (or val/, valid/, validation/)"
MEMORY_SHARE: Final = 4  # decoded images may take a quarter of the machine's memory


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels."""

    class_names: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[str, int]]]  # (path, label) by part: "train", "test" and possibly "val"
    notes: tuple[str, ...] = ()  # lines for the user, see `Contents`

    @property
    def files(self) -> list[str]:
        """Paths of all images."""
        return [file for part in self.parts.values() for file, _ in part]


def find_folder(data: DataSettings) -> Source | ImageFiles:
    """Return the images in `data.root`: a `Source` to decode into memory, or files to stream.

    They are decoded if they have one size, or `data.image_size` is set, and they fit into a quarter of the memory.

    Raises:
        DataError: no such folder, its layout is wrong (see `class_folders`), or an image to stream is damaged.
    """
    images = class_folders(root_folder(data))
    if data.on_damage == "skip":
        images = _without_damaged(images)
    files = images.files
    height, width = (data.image_size, data.image_size) if data.image_size else size_of(files[0], files[0])
    num_bytes = len(files) * height * width * 3
    if num_bytes > machine_bytes() // MEMORY_SHARE:
        reason = f"{num_bytes} bytes of pixels are more than 1/{MEMORY_SHARE} of the memory of {machine_bytes()} bytes"
        return _to_stream(images, data, reason)
    source = folder_source("folder", images, flip=True, image_size=data.image_size)
    if data.image_size or is_stored(source):
        return source
    for file in files:
        if (size := size_of(file, file)) != (height, width):
            reason = f"{file} has {size[1]} x {size[0]} pixels and {files[0]} {width} x {height}"
            return _to_stream(images, data, reason)
    return source


def _to_stream(images: ImageFiles, data: DataSettings, reason: str) -> ImageFiles:
    """Return images that are whole, with a line that gives the reason to stream them."""
    damaged = {} if data.on_damage == "skip" else damaged_files(images.files, "folder")
    if damaged:
        others = f" (the first of {len(damaged)} damaged images)" if len(damaged) > 1 else ""
        raise DamagedImage(f"{next(iter(damaged.values()))}{others}")
    side = data.image_size or INPUT_SIDE
    advice = "" if data.image_size else "; set data.image_size to choose another size"
    note = f"data.image_size: {reason}, so images are read batch by batch and cropped to {side} x {side}{advice}"
    return replace(images, notes=(*images.notes, note))


def _without_damaged(images: ImageFiles) -> ImageFiles:
    """Return the images that are not damaged, with a line that counts the others.

    Raises:
        DataError: no image of a class is left.
    """
    damaged = damaged_files(images.files, "folder")
    if not damaged:
        return images
    first = next(iter(damaged.values()))
    parts = {part: [file for file in files if file[0] not in damaged] for part, files in images.parts.items()}
    for part, files in images.parts.items():
        for label in {label for _, label in files} - {label for _, label in parts[part]}:
            raise DataError(
                f"data.on_damage: a class needs an image that is not damaged, got none of "
                f"'{images.class_names[label]}' for {part}; replace its images: {first}"
            )
    note = f"data.on_damage: {len(damaged)} of {len(images.files)} images are damaged and left out, the first: {first}"
    return ImageFiles(images.class_names, parts, (*images.notes, note))


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
                    decode_blocks(((file, file, label) for file, label in files), height, width, size=image_size),
                )
                for part, files in images.parts.items()
            },
        )

    every_file = tuple(map(Path, images.files))
    return Source(name, every_file, open_files, flip=flip, mean_std=mean_std, image_size=image_size, notes=images.notes)


def class_folders(root: Path) -> ImageFiles:
    """Return the image files below train/, val/ (or valid/, validation/) and test/.

    The classes are the folders of train/, sorted by name. A line counts the files that are left out: no images by their
    names, or outside the class folders.

    Args:
        root: folder of the data set.

    Raises:
        DataError: a part or a class is empty, a class is absent from train/, a part has two folders, or a link leads
            out of `root`.
    """
    found: dict[str, Path] = {}
    for part, folder_names in FOLDERS.items():
        present = [name for name in folder_names if (root / name).is_dir()]
        if len(present) > 1:
            raise DataError(f"{root}: must have one folder of {part}, got {', '.join(present)}; merge or rename them")
        if present:
            found[part] = root / present[0]
    folders = name_parts(found, str(root), LAYOUT)
    class_names = tuple(_class_names(folders["train"], root))
    numbers = {name: number for number, name in enumerate(class_names)}
    parts = {}
    others: Counter[str] = Counter()
    for part, folder in folders.items():
        names = _class_names(folder, root)
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise DataError(
                f"{folder}: its classes must be among those of {folders['train']}, "
                f"got {_first_names(unknown)}; choose from {_first_names(class_names)}"
            )
        parts[part] = [(file, numbers[name]) for name in names for file in _image_files(folder / name, root, others)]
        with os.scandir(folder) as entries:
            others.update("(outside the class folders)" for entry in entries if _is_image(entry) and entry.is_file())
    if not others:
        return ImageFiles(class_names, parts)
    return ImageFiles(class_names, parts, (f"{root}: files are left out: {_kinds(others)}",))


def _kinds(suffixes: Counter[str]) -> str:
    return _first_names([f"{number} of {suffix or 'no suffix'}" for suffix, number in sorted(suffixes.items())])


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _class_names(folder: Path, root: Path) -> list[str]:
    check_inside(folder, root)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: must have one folder of images per class, got no folders; expected {LAYOUT}")
    return names


def _image_files(folder: Path, root: Path, others: Counter[str]) -> list[str]:
    check_inside(folder, root)
    of_class: Counter[str] = Counter()
    files = sorted(_walk(folder, root, of_class))
    if not files:
        left_out = f" but {_kinds(of_class)}" if of_class else ""
        raise DataError(
            f"{folder}: a class must have images, got none{left_out}; expected files of {', '.join(SUFFIXES)}"
        )
    others.update(of_class)
    return files


def _walk(folder: Path, root: Path, others: Counter[str]) -> Iterator[str]:
    """Yield the image files below a folder; count the suffixes of the other ones.

    Links to files are followed, links to folders are not.
    """
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif _is_image(entry):
                    if entry.is_symlink():
                        check_inside(Path(entry.path), root)
                    if not entry.is_file():
                        raise DataError(
                            f"{entry.path}: must be a file, got a broken link, a pipe or a device; remove it"
                        )
                    yield entry.path
                elif not entry.name.startswith("."):
                    others["(link to a folder)" if entry.is_dir() else Path(entry.name).suffix.lower()] += 1


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
