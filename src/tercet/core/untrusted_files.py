"""What prediction files and label files from elsewhere have in common: they are read with no trust in them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.core.errors import DataError
from tercet.core.predictions import DAMAGED

ID_COLUMNS = ("id", "image", "file", "path", "filename")
NPY_MAGIC = b"\x93NUMPY"
_FORMULA = "[=+\\-@\t\r\n\0]"  # what a spreadsheet may take for a formula at the start of a cell


def read_start(source: Path) -> bytes:
    """Return the first 8 bytes, which tell the kind of a file.

    Raises:
        DataError: It is not there, is no plain file, or may not be read.
    """
    try:
        if not source.is_file():
            raise DataError(f"{source} is not a file" if source.exists() else f"{source} does not exist")
        with open(source, "rb") as stream:
            return stream.read(8)
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error


def read_npy(source: Path) -> NDArray[np.generic]:
    """Return the array of an `.npy` file; pickled objects are refused.

    Raises:
        DataError: The file is damaged, or holds objects.
    """
    try:
        # Mapping the file checks the shape it claims against its length before any memory is taken.
        return np.array(np.load(source, mmap_mode="r", allow_pickle=False))
    except DAMAGED as error:
        raise DataError(f"{source} is not a usable array file: {error}") from error


def decode_text(source: Path) -> str:
    """Return a text file's content: UTF-8 with or without a mark, or UTF-16 with one; odd bytes survive."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "surrogateescape")


def read_table(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the other rows with their line numbers; both empty where no header names an id column.

    The delimiter (comma, semicolon, tab) is the one under which it does.
    """
    for delimiter in (",", ";", "\t"):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = next(reader, [])
            if len(header) > 1 and table_column(header, ID_COLUMNS) is not None:
                return header, [(reader.line_num, row) for row in reader if row]
        except csv.Error:
            continue  # another delimiter may fit
    return [], []


def table_column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the place of the first column with one of the names, case ignored; earlier names win."""
    folded = [name.strip().casefold() for name in header]
    return next((folded.index(name) for name in names if name in folded), None)


def escape_formula(cell: str) -> str:
    """Prefix `cell` with `'` if a spreadsheet might run it as a formula; `is_plain_number` is the inverse."""
    return f"'{cell}" if re.match(f"'*{_FORMULA}", cell) else cell


def unescape_formula(cell: str) -> str:
    """Return `cell` without the `'` that `untrusted` puts in front."""
    return cell[1:] if re.match(f"'+{_FORMULA}", cell) else cell
