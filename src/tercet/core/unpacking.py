"""Unpacking archives that may be hostile: safely, and whole or not at all."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tercet.core.archives import read_chunks, read_archive
from tercet.core.errors import DataError, StorageError
from tercet.core.files import umask


def unpacked_folder(archive: Path) -> Path:
    """Return the folder beside an archive that it is unpacked into: its name without `.zip`, `.tar.gz` and the like."""
    return archive.with_name(re.sub(r"(\.tar)?\.\w+$", "", archive.name))


def unpack(archive: Path, folder: Path, nested: Collection[str] = ()) -> None:
    """Unpack an archive into a new folder, which appears when everything is in it and on disk.

    Args:
        archive: A zip or tar archive.
        folder: The new folder; one process at a time may unpack into it. What one that was killed has left behind is
            removed.
        nested: File names of archives within the archive, which are unpacked too and then deleted.

    Raises:
        DataError: The archive is damaged, or not safe (see `ground.archives`).
        StorageError: It cannot be written.
    """
    prefix = f".{folder.name[:60]}."
    for left in folder.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise StorageError(f"cannot unpack into {folder.parent}: {error.strerror or error}") from error
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
    for name, _, content in read_archive(archive):
        _write(archive, folder / name, content)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
        ) from error


def _write(archive: Path, target: Path, content: IO[bytes]) -> None:
    """Write one file; no folder above it can be a link, as none is ever made."""
    with _writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = open(target, "xb")  # noqa: SIM115  used right below
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError(f"{archive} holds {target.name!r} twice: not unpacked") from error
        with stream:
            for part in read_chunks(archive, content):
                stream.write(part)
