"""Unpacking of untrusted archives: completely, or not at all."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tercet.core.archives import read_archive, read_chunks
from tercet.core.errors import DataError, StorageError
from tercet.core.files import umask


def unpacked_folder(archive: Path) -> Path:
    """Return the folder that an archive is unpacked to: its path without `.zip`, `.tar.gz` and the like."""
    return archive.with_name(re.sub(r"(\.tar)?\.\w+$", "", archive.name))


def unpack(archive: Path, folder: Path, nested: Collection[str] = ()) -> None:
    """Unpack an archive to a new folder, which appears only when complete and synced to disk.

    Args:
        archive: A zip or tar archive.
        folder: The new folder; only one process at a time may unpack to it. Leftovers of killed processes are removed.
        nested: File names of archives inside the archive, which are unpacked in place.

    Raises:
        DataError: The archive is damaged or unsafe (see `tercet.core.archives`).
        StorageError: The folder cannot be written.
    """
    prefix = f".{folder.name[:60]}."
    for leftover in folder.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise StorageError(f"cannot unpack to {folder.parent}: {error.strerror or error}") from error
    try:
        _unpack_into(archive, temporary)
        for inner in [path for path in temporary.rglob("*") if path.name in nested and path.is_file()]:
            _unpack_into(inner, unpacked_folder(inner))
            inner.unlink()
        with _writing(folder):
            temporary.chmod(0o777 & ~umask())
            os.sync()  # one call for hundreds of thousands of files
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_into(archive: Path, folder: Path) -> None:
    # Links are never created, so no parent folder of a target can be one.
    for name, _, content in read_archive(archive):
        target = folder / name
        with _writing(target):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                stream = open(target, "xb")  # noqa: SIM115  used right below
            except (FileExistsError, NotADirectoryError) as error:
                raise DataError(f"{archive} contains {target.name!r} twice: not unpacked") from error
            with stream:
                for chunk in read_chunks(archive, content):
                    stream.write(chunk)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
        ) from error
