"""Safe reading of untrusted arrays and text tables, and escaping of spreadsheet formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import DataError
from tercet.core.predictions import ARRAY_ERRORS

ID_COLUMNS = ("id", "image", "file", "path", "filename")
NPY_MAGIC = b"\x93NUMPY"
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


def decode_text(source: Path) -> str:
    """Return the content of a text file: UTF-8 or, with a byte order mark, UTF-16; invalid bytes are escaped."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "surrogateescape")


def read_table(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the other rows with line numbers; both are empty if there is no id column.

    The delimiter (comma, semicolon or tab) is the first one with which the header has an id column.
    """
    for delimiter in (",", ";", "\t"):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = next(reader, [])
            if len(header) > 1 and table_column(header, ID_COLUMNS) is not None:
                return header, [(reader.line_num, row) for row in reader if row]
        except csv.Error:
            continue
    return [], []


def table_column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the index of a column with one of the names, ignoring case; earlier names take precedence."""
    folded = [name.strip().casefold() for name in header]
    return next((folded.index(name) for name in names if name in folded), None)


def escape_formula(cell: str) -> str:
    """Prefix `cell` with `'` if a spreadsheet might run it as a formula; `unescape_formula` is the inverse."""
    return f"'{cell}" if re.match(f"'*{_FORMULA}", cell) else cell


def unescape_formula(cell: str) -> str:
    """Remove the `'` that `escape_formula` adds."""
    return cell[1:] if re.match(f"'+{_FORMULA}", cell) else cell
