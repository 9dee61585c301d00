"""Tar archives of images, unpacked once to the cache, since their members cannot be read in any order."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tercet.core.archives import TAR_SUFFIXES, unpack
from tercet.core.errors import StorageError
from tercet.core.files import file_lock, slug
from tercet.data.decode import open_regular
from tercet.data.feature_cache import default_folder


def data_stem(path: Path) -> str:
    """Return the name of a file without the suffix of a table or archive."""
    suffix = next((suffix for suffix in TAR_SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def unpacked(archive: Path) -> Path:
    """Return the folder with the content of an archive; it is unpacked again if the archive has changed.

    Raises:
        DataError: The archive is damaged or unsafe.
        StorageError: The cache cannot be written.
    """
    with open_regular(archive) as stream:
        status = os.fstat(stream.fileno())
    key = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    cache = default_folder().with_name("archives")
    folder = (
        cache / f"{slug(data_stem(archive))}-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
    )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot unpack {archive} to {cache}: {error.strerror or error}; set TERCET_CACHE to a folder with space"
        ) from error
    with file_lock(cache / f".{folder.name}.lock", busy=lambda owner: None):
        if not folder.is_dir():
            unpack(archive, folder)
    return folder
