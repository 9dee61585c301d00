"""Records of tables in several text formats: CSV and TSV, JSON lines, and lists of paths."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from tercet.core.errors import DataError
from tercet.core.untrusted_files import Record, parse_table

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
"""Suffixes of the files that are read as tables wherever they are."""
LIST_SUFFIXES = TABLE_SUFFIXES | {".jsonl", ".txt"}
"""Suffixes of files that are read as tables if they are given as the data."""


def read_records(content: bytes, *, name: str, separator: str | None = None) -> tuple[list[str], list[Record]]:
    """Return the header and the records of a file, in the format of the suffix of its name.

    Args:
        content: The file.
        name: Its name, also for messages.
        separator: Separator of labels in a cell, by which lists of JSON lines are joined.

    Raises:
        DataError: The content has another format, or no rows.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".jsonl":
        return _json_records(_decode(content, name), name, separator)
    if suffix == ".txt":
        return _list_records(_decode(content, name), name)
    return decode_table(content, name=name)


def decode_table(content: bytes, *, name: str) -> tuple[list[str], list[Record]]:
    """Return the header and the records of a CSV or TSV file.

    Raises:
        DataError: The content is not a table, or has no rows.
    """
    delimiter = "\t" if PurePosixPath(name).suffix.lower() == ".tsv" else None
    header, records = parse_table(_decode(content, name), name=name, delimiter=delimiter)
    return [cell.strip() for cell in header], records


def _decode(content: bytes, name: str) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name} is UTF-16: save it as UTF-8 (in spreadsheets: CSV UTF-8)")
    if (position := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise DataError(f"{name}, line {line}: a NUL byte; the file is damaged or UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: not UTF-8: save the table as UTF-8") from error


def _json_records(text: str, name: str, separator: str | None) -> tuple[list[str], list[Record]]:
    """Read one JSON object per line; its keys are the columns."""
    objects: list[tuple[int, dict[str, Any]]] = []
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                item = json.loads(content, parse_float=str, parse_int=str, parse_constant=str)
                json.dumps(item, ensure_ascii=False).encode()  # raises for halves of surrogate pairs
            except (ValueError, RecursionError) as error:
                raise DataError(f"{name}, line {line}: not JSON: {error}") from error
            if not isinstance(item, dict):
                raise DataError(f"{name}, line {line}: expected an object such as {{'file_name': ..., 'label': ...}}")
            if "\\u0000" in content:
                raise DataError(f"{name}, line {line}: a NUL character")
            objects.append((line, item))
    header = list(dict.fromkeys(key for _, item in objects for key in item))
    if not header:
        raise DataError(f"{name} has no rows: expected one JSON object with 'file_name' and 'label' per line")
    return header, [(line, [_json_cell(item.get(key), separator) for key in header]) for line, item in objects]


def _json_cell(value: Any, separator: str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and separator is not None and all(isinstance(item, str) for item in value):
        return separator.join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list_records(text: str, name: str) -> tuple[list[str], list[Record]]:
    """Read one path and label per line, separated by blanks; without labels, the folder of an image is its class."""
    lines = [(line, content.strip()) for line, content in enumerate(text.splitlines(), 1) if content.strip()]
    if not lines:
        raise DataError(f"{name} has no rows: expected one path and label per line")
    pairs = [(line, _split_path(content)) for line, content in lines]
    labelled = [label is not None for _, (_, label) in pairs]
    if any(labelled) and not all(labelled):
        line = pairs[labelled.index(False)][0]
        raise DataError(f"{name}, line {line}: no label: expected a path and a label in every line, or in none")
    return ["image", "label"], [
        (line, [path, _folder(path) if label is None else label]) for line, (path, label) in pairs
    ]


def _split_path(line: str) -> tuple[str, str | None]:
    """Return path and label of a line; a path may contain blanks if it has an extension."""
    for separator in ("\t", None, ","):
        path, *label = line.rsplit(separator, 1)
        if label and PurePosixPath(label[0]).suffix == "" and "/" not in label[0]:
            return path.strip(), label[0].strip()
    return line, None


def _folder(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).parent.name
