"""Safe reading of untrusted arrays and text tables, and escaping of spreadsheet formulas."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import DataError
from tercet.core.predictions import ARRAY_ERRORS

IMAGE_COLUMNS = tuple(
    [
        "image",
        "file",
        "path",
        "filename",
        "filepath",
        "imagepath",
        "imgpath",
        "imagefile",
        "imagefilename",
        "imagename",
        "img",
        "imgname",
        "imgfile",
        "fname",
        "imageid",
        "imgid",
        "id",
    ]
)
"""Usual names of the column with the image files, as `column_key`; earlier names take precedence."""
ID_COLUMNS = ("id", *IMAGE_COLUMNS[:-1])
LABEL_COLUMNS = ("label", "class", "target")
NPY_MAGIC, GZIP_MAGIC = b"\x93NUMPY", b"\x1f\x8b"
_IDX_BYTES = b"\0\0\x08"  # start of an IDX file of unsigned bytes; the number of dimensions follows
_MAX_VALUES = 1 << 32
_CHUNK = 1 << 24  # bytes per read
_FORMULA = "[=+\\-@\t\r\n\0]"  # first characters that may start a formula in a spreadsheet


def read_start(source: Path) -> bytes:
    """Return the first 8 bytes, for detecting the format.

    Raises:
        DataError: The file is missing, not a regular file, or not readable.
    """
    try:
        if not source.is_file():
            raise DataError(f"{source} is not a file" if source.exists() else f"{source} does not exist")
        with open(source, "rb") as stream:
            return stream.read(8)
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error


def read_npy(source: Path) -> NDArray[np.generic]:
    """Return the array of an `.npy` file.

    Raises:
        DataError: The file is damaged, or contains pickled objects.
    """
    try:
        # Memory-mapping checks the shape in the header against the file size before memory is allocated.
        return np.array(np.load(source, mmap_mode="r", allow_pickle=False))
    except ARRAY_ERRORS as error:
        raise DataError(f"{source} is not a usable array file: {error}") from error


def read_idx(source: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes, gzipped or plain (detected from the content).

    Raises:
        DataError: The file is missing, damaged, or of another format or type.
    """
    compressed = read_start(source).startswith(GZIP_MAGIC)
    try:
        with gzip.open(source) if compressed else open(source, "rb") as stream:
            start = stream.read(4)
            if not start.startswith(_IDX_BYTES) or not 1 <= start[-1] <= 4:
                raise DataError(
                    f"{source} is not an IDX file of unsigned bytes: it begins with {start.hex() or 'nothing'}"
                )
            sizes = stream.read(4 * start[3])
            if len(sizes) < 4 * start[3]:
                raise DataError(f"{source} ends within its header")
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
            if (count := math.prod(shape)) > _MAX_VALUES:
                raise DataError(f"{source}: the header states {count} values, more than {_MAX_VALUES}")
            values = bytearray()  # grows with the data: a wrong size in the header allocates nothing
            while len(values) <= count and (chunk := stream.read(min(_CHUNK, count + 1 - len(values)))):
                values += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} is damaged: {error}") from error
    if len(values) != count:
        actual = "more" if len(values) > count else str(len(values))
        raise DataError(f"{source}: the header states {count} values, but there are {actual}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def decode_text(source: Path) -> str:
    """Return the content of a text file: UTF-8 or, with a byte order mark, UTF-16; invalid bytes are escaped."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "surrogateescape")


Record = tuple[int, list[str]]
"""First line of a record, and its cells."""


def table_header(text: str) -> tuple[list[str], str]:
    """Return the header of a table and its delimiter: comma, semicolon or tab.

    Of these the one is used with which the header has an id column, else the one with the most columns.
    """

    def header(delimiter: str) -> list[str]:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            return next((cells for cells in reader if any(map(str.strip, cells))), [])
        except csv.Error:
            return []

    headers = {delimiter: header(delimiter) for delimiter in ",;\t"}

    def rank(delimiter: str) -> tuple[bool, int]:
        cells = headers[delimiter]
        return len(cells) > 1 and table_column(cells, ID_COLUMNS) is not None, len(cells)

    best = max(headers, key=rank)
    return headers[best], best


def parse_table(text: str, *, name: str | Path, delimiter: str | None = None) -> tuple[list[str], list[Record]]:
    """Return the header and the records of a table, without blank ones.

    Raises:
        DataError: The text is not a table, has no rows, or a row has another number of cells than the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or table_header(text)[1], strict=True)
    records: list[Record] = []
    line = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                records.append((line, cells))
                if len(cells) != len(records[0][1]):
                    header_size = len(records[0][1])
                    raise DataError(f"{name}, line {line}: {len(cells)} fields, but the header has {header_size}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: not a valid table: {error}") from error
    if len(records) < 2:
        raise DataError(f"{name} has no rows: expected a header such as 'image,label' and one line per image")
    return records[0][1], records[1:]


def column_key(name: str) -> str:
    """Return the name of a column without case and separators: `filename` for `File Name` and `file_name`."""
    return re.sub(r"[\W_]+", "", name.casefold())


def table_column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the index of a column with one of the names (`column_key`); earlier names take precedence."""
    keys = [column_key(name) for name in header]
    return next((keys.index(name) for name in names if name in keys), None)


def escape_formula(cell: str) -> str:
    """Prefix `cell` with `'` if a spreadsheet might run it as a formula; `unescape_formula` is the inverse."""
    return f"'{cell}" if re.match(f"'*{_FORMULA}", cell) else cell


def unescape_formula(cell: str) -> str:
    """Remove the `'` that `escape_formula` adds."""
    return cell[1:] if re.match(f"'+{_FORMULA}", cell) else cell
