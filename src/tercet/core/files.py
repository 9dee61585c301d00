"""Files: atomic writes, JSON, folders and file locks."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from tercet.core.errors import ModelError, StorageError

UNFINISHED_PREFIX = ".bundle-"
"""Name prefix of temporary folders for writing bundles; only a crash leaves one behind."""

_POLL = 0.2  # seconds


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to `target`; on success it is synced to disk and renamed to `target`.

    After a crash at any time, `target` is either the complete old file or the complete new one. A link stays, and its
    target is replaced. A pipe or character device, such as /dev/stdout, is not replaced: the content is written to it.

    Raises:
        StorageError: The disk is full, the folder is not writable, or `target` is a folder; the old file is unchanged.
    """
    descriptor, name = -1, ""
    try:
        path = replaceable_path(target)
        folder = path.parent if path is not None else Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:60]}.", suffix=".tmp", dir=folder)
        os.close(descriptor)
        yield Path(name)
        if path is None:
            with open(name, "rb") as content, open(target, "wb") as stream:
                shutil.copyfileobj(content, stream)
        else:
            os.chmod(name, 0o666 & ~umask())
            replace_file(Path(name), path)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if name and os.path.exists(name):
            os.unlink(name)


def replaceable_path(target: Path) -> Path | None:
    """Return the regular file that an output replaces, with links resolved; None for a pipe or a character device.

    Raises:
        StorageError: `target` is a folder, a block device, a socket, or a link in a circle.
    """
    try:
        mode = os.stat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(target))
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}; choose another file") from error
    if stat.S_ISREG(mode):
        return Path(os.path.realpath(target))
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return None
    kind = "a folder" if stat.S_ISDIR(mode) else "a block device" if stat.S_ISBLK(mode) else "a socket"
    raise StorageError(f"cannot write {target}: it is {kind}; choose another file")


def replace_file(finished: Path, target: Path) -> None:
    """Sync a finished file to disk and rename it to `target` on the same file system."""
    with open(finished, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(finished, target)
    _sync_folder(target.parent)


def umask() -> int:
    """Return the file mode creation mask of this process."""
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` atomically (see `atomic_path`)."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write `content` as UTF-8, atomically."""
    write_bytes(target, content.encode("utf-8", "surrogateescape"))


def write_json(target: Path, document: Any) -> None:
    """Write `document` as indented JSON, atomically; NaN and infinities raise ValueError."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # File names may contain bytes that are not UTF-8; they are written as escapes.
    write_text(target, re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


@contextmanager
def csv_rows(target: Path) -> Iterator[Callable[[Iterable[Any]], Any]]:
    """Yield a function that writes one row of a CSV file, which appears at `target` when complete."""
    with (
        atomic_path(target) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield csv.writer(stream).writerow


def csv_text(rows: Iterable[Sequence[Any]], delimiter: str = ",") -> str:
    """Return rows as CSV text; None becomes an empty cell."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_json(source: Path) -> Any:
    """Read a JSON document that Tercet wrote.

    Raises:
        ModelError: The file is missing or not JSON.
    """
    try:
        return json.loads(source.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {source}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{source} is not a JSON document: {error}") from error


def sha256(source: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def new_folder(path: Path, *, resumes: bool = True) -> Path:
    """Create a folder, or accept an empty one; a lock or a temporary file of a killed process does not count.

    Raises:
        StorageError: The path exists and is not an empty folder, or is not writable.
    """
    try:
        if path.exists() and (not path.is_dir() or not all(map(_is_leftover, path.iterdir()))):
            kind = "is not empty" if path.is_dir() else "is a file"
            hint = f", or continue it with --resume {path}" if resumes and path.is_dir() else ""
            raise StorageError(f"{path} exists already and {kind}: choose another --output{hint}")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass  # fail now, not after the first epoch
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {error.strerror or error}; choose another --output") from error
    return path


def _is_leftover(path: Path) -> bool:
    return path.name == ".lock" or (path.name.startswith(".") and path.suffix == ".tmp")


def require_writable(folder: Path, *, hint: str = "choose another --output") -> None:
    """Check that a folder can be created and written; it is not created.

    Raises:
        StorageError: The path is a file, the disk is read-only, or permission is missing.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"{error.filename} is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise StorageError(f"cannot write to {folder}: {reason}; {hint}") from error
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def require_output(target: Path, *, hint: str) -> None:
    """Check that a file can be written; see `atomic_path`.

    Raises:
        StorageError: It is a folder, or its folder cannot be written.
    """
    path = replaceable_path(target)
    if path is not None:
        require_writable(path.parent, hint=hint)


def slug(name: str) -> str:
    """Return `name` as a safe path component; different names may have the same slug."""
    safe = re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    short = safe.encode()[:80].decode(errors="ignore")  # a path component has at most 255 bytes
    return short.strip("-.") or "unnamed"


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key by which `class10` follows `class9`; keys are unique per name."""
    parts = re.split(r"(\d+)", name)
    keys = [(1, part.casefold()) if index % 2 == 0 else (0, int(part)) for index, part in enumerate(parts) if part]
    return (*keys, (-1, name))  # a fixed order also of `Cat` and `cat`, `01` and `1`


@contextmanager
def file_lock(path: Path, busy: Callable[[str], None], waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock between processes; without effect on file systems that cannot lock.

    The file contains the process ID of the owner, for messages only: IDs are reused and differ between machines.

    Args:
        path: Lock file in an existing folder; deleted on release.
        busy: Called with the process ID of the owner if another process holds the lock; raises to give up, returns to
            wait.
        waiting: Called several times a second while it waits; raises to give up.
    """
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        busy(_owner(path))
        _wait(lock, waiting)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):  # some network file systems
            raise
    try:
        with suppress(OSError):  # Windows locks the content too
            path.write_text(str(os.getpid()), "ascii")
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file
            path.unlink()  # while it is held; a waiting process notices that the file is gone and makes a new one
        lock.release()


def _wait(lock: filelock.BaseFileLock, waiting: Callable[[], None]) -> None:
    while True:
        with suppress(filelock.Timeout):
            lock.acquire(timeout=_POLL)
            return
        waiting()


def _owner(path: Path) -> str:
    try:
        return path.read_text("ascii") or "unknown"
    except (OSError, ValueError):
        return "unknown"
