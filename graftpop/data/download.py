"""Download of an archive, once per node, with timeouts and without a progress bar."""

import http.client
import os
import shutil
import tarfile
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Final

from graftpop.data.cache import LOCK_TIMEOUT_S, locked
from graftpop.errors import DataError, one_line

__all__ = ["download_archive"]

SOCKET_LIMIT_S: Final = 20.0  # seconds without a byte
CHUNK_BYTES: Final = 2**18
MAX_ARCHIVE_BYTES: Final = 2**28  # CIFAR's have 170 million


def download_archive(url: str, md5: str, folder: Path, member: str) -> None:
    """Download a tar archive and unpack one of its folders.

    Args:
        url: URL of the archive.
        md5: expected MD5 of the archive, checked before unpacking.
        folder: destination; `folder / member` appears only when it is complete.
        member: name of the folder inside the archive.

    Raises:
        DataError: no connection, wrong content, a timeout, or `folder` cannot be written.
    """
    with locked(folder.with_name(folder.name + ".lock"), f"download {url}"):
        if (folder / member).exists():
            return  # another process has downloaded it meanwhile
        archive, unpacked = folder / "download.partial", folder / "unpacked.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(url, md5, archive)
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")  # refuses paths outside the folder, and devices
            (unpacked / member).rename(folder / member)
        except (OSError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException) as error:
            raise DataError(f"download of {url} to {folder} failed ({one_line(error)})") from error
        finally:
            archive.unlink(missing_ok=True)
            shutil.rmtree(unpacked, ignore_errors=True)


def _fetch(url: str, md5: str, archive: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    deadline = time.monotonic() + LOCK_TIMEOUT_S
    with urllib.request.urlopen(url, timeout=SOCKET_LIMIT_S) as response, open(archive, "wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            if file.tell() > MAX_ARCHIVE_BYTES:
                raise OSError(f"more than {MAX_ARCHIVE_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done within {LOCK_TIMEOUT_S:g} s")
    if not check_integrity(os.fspath(archive), md5):
        raise OSError("MD5 differs from the published one")
