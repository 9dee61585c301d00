"""Images stored in Parquet files, as data sets of the Hugging Face hub are: read row group by row group."""

from __future__ import annotations

import importlib
import os
import re
import threading
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from tercet.core.errors import ConfigError, DataError
from tercet.data.decode import decode
from tercet.data.decoding import DEFAULT, Decoding
from tercet.data.pixel_values import Pixels
from tercet.data.sources import digest_of

_GROUP_BYTES = 1 << 26
"""Row groups up to this uncompressed size are read at once: 64 MiB."""
_BATCH_ROWS = 16
"""Rows that are read at once of larger row groups."""
_RECENT_BATCHES = 4
"""Batches that stay in memory for threads that read neighbouring rows."""
_BUFFER_BYTES = 1 << 20


def open_parquet(path: Path) -> Any:
    """Open a Parquet file as `pyarrow.parquet.ParquetFile`.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file is missing or damaged.
    """
    if find_spec("pyarrow") is None:
        raise ConfigError("Parquet files require pyarrow: pip install 'tercet[parquet]'")
    if not path.is_file():
        raise DataError(f"{path} is not a file")
    with parquet_errors(path):
        return importlib.import_module("pyarrow.parquet").ParquetFile(path, buffer_size=_BUFFER_BYTES)


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Raise errors of pyarrow within the block as a `DataError`."""
    arrow_error: type[Exception] = importlib.import_module("pyarrow").ArrowException
    try:
        yield
    except (arrow_error, OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}") from error


class ParquetSource:
    """Image files in a column of Parquet files; a location is the file's path in the folder, `#` and the row.

    Each process opens the files itself, so that the source can be copied and forked.

    Args:
        root: Folder of the files.
        column: Column of the images: bytes, or a struct with `bytes`.
        decoding: How files become pixels.
    """

    def __init__(self, root: Path, column: str, decoding: Decoding = DEFAULT) -> None:
        self.root, self.column, self.decoding = root, column, decoding
        self._readers: dict[str, _ColumnReader] = {}
        self._process = os.getpid()
        self._hashes: dict[str, tuple[int, bytes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_hashes": {}}

    def content(self, location: str) -> bytes:
        """Return the bytes of one image.

        Raises:
            DataError: The row does not exist or has no bytes, or the file cannot be read.
        """
        if self._process != os.getpid():
            self._readers, self._process = {}, os.getpid()
        file, _, row = location.rpartition("#")
        if file not in self._readers:
            self._readers[file] = _ColumnReader(self.root / file, self.column)
        return self._readers[file].image(int(row))

    def pixels(self, location: str, *, max_pixels: int) -> Pixels:
        """Decode one image."""
        return decode(self.content(location), max_pixels=max_pixels, decoding=self.decoding)

    def checksum(self, location: str) -> int:
        """Return the CRC-32 of one image; each is read once."""
        return self._hashes_of(location)[0]

    def digest(self, location: str) -> bytes:
        """Return the digest of one image; each is read once."""
        return self._hashes_of(location)[1]

    def _hashes_of(self, location: str) -> tuple[int, bytes]:
        if location not in self._hashes:
            content = self.content(location)
            self._hashes[location] = zlib.crc32(content), digest_of(content)
        return self._hashes[location]

    def describe(self) -> dict[str, Any]:
        """Return the kind, the folder, the column, and how files are decoded."""
        path, decoding = os.path.abspath(self.root), self.decoding.to_dict()
        return {"kind": "parquet", "path": path, "column": self.column, "decoding": decoding}

    def find(self, name: str) -> str | None:
        """Return a location if it has the form of one."""
        return name if re.fullmatch(r"[^#]+#\d+", name) else None


class _ColumnReader:
    """Reads images of one file in any order, also from several threads; increasing rows read each group once."""

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self.file = open_parquet(path)
        metadata = self.file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.ends = list(accumulate(counts))
        self.batches: Iterator[Any] = iter(())
        self.next_row = self.group_end = 0  # of the batches: the next row, and the end of their group
        self.recent: deque[tuple[int, Any]] = deque(maxlen=_RECENT_BATCHES)
        self.lock = threading.Lock()

    def image(self, row: int) -> bytes:
        with self.lock, parquet_errors(self.path):
            value = self._value(row)
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise DataError(f"row {row} of {self.path} has no image bytes")
        return bytes(content)

    def _value(self, row: int) -> Any:
        if not 0 <= row < (self.ends or [0])[-1]:
            raise DataError(f"{self.path} has no row {row}")
        for first, images in self.recent:
            if first <= row < first + len(images):
                return images[row - first].as_py()
        if not self.next_row <= row < self.group_end:
            self._start_group(bisect_right(self.ends, row))
        for batch in self.batches:
            first, images = self.next_row, batch.column(0)
            self.next_row += len(images)
            self.recent.append((first, images))
            if row < self.next_row:
                return images[row - first].as_py()
        raise DataError(f"{self.path} ends before row {row}")

    def _start_group(self, group: int) -> None:
        metadata = self.file.metadata.row_group(group)
        rows = metadata.num_rows if metadata.total_byte_size <= _GROUP_BYTES else _BATCH_ROWS
        self.group_end = self.ends[group]
        self.next_row = self.group_end - metadata.num_rows
        # without threads, since a process with threads cannot be forked safely
        self.batches = self.file.iter_batches(
            batch_size=rows, row_groups=[group], columns=[self.column], use_threads=False
        )
