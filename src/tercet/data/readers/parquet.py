"""Read Parquet files with images, as data sets of the Hugging Face hub are, or with paths of image files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.config.run import DataConfig
from tercet.core.errors import DataError
from tercet.core.untrusted_files import IMAGE_COLUMNS, table_column
from tercet.data.parquet_source import ParquetSource, open_parquet, parquet_errors
from tercet.data.readers.columns import SPLIT_COLUMNS
from tercet.data.readers.file_names import FileFinder
from tercet.data.readers.scan import Listing, is_image
from tercet.data.readers.split_names import split_of
from tercet.data.readers.table import table_of_records
from tercet.data.sources import FolderSource
from tercet.data.table import SampleTable

SUFFIX = ".parquet"


def parquet_files(listing: Listing) -> list[str]:
    """Return the Parquet files of a folder that holds no image files."""
    if any(map(is_image, listing.files)):
        return []
    return sorted(path for path in listing.files if path.lower().endswith(SUFFIX))


def read_parquet(root: Path, files: Sequence[str], config: DataConfig, *, name: str, what: str) -> SampleTable:
    """Read Parquet files with the same columns: a column of images or paths, and those of other tables.

    Names of classes are those of the `ClassLabel` features in the files' metadata. Without a split column, names of
    files or their folders such as `train-00000-of-00002.parquet` give the splits, if all of them do.

    Args:
        root: Folder of the files.
        files: Paths in it.
        config: Names of the columns, if they are not the usual ones.
        name: Name of the data.
        what: Path of the data, for messages.

    Raises:
        ConfigError: pyarrow is not installed, or an option does not fit the columns.
        DataError: The files cannot be read, or have other columns than the first one.
    """
    first = open_parquet(root / files[0])
    schema = first.schema_arrow
    features = _features(schema.metadata or {})
    image = _image_column(schema, features, config)
    path_column = None if image is None else _path_column(schema, image)
    columns = [column for column in schema.names if column != image]
    header = [*columns] if image is None else [image, *columns]
    header += ["id"] * (path_column is not None and "id" not in header)
    splits = [split_of(Path(file).stem.split("-")[0]) or split_of(Path(file).parent.name) for file in files]
    with_split = all(splits) and config.split_column is None and table_column(columns, SPLIT_COLUMNS) is None
    header += ["split"] * with_split
    records: list[tuple[str, list[str]]] = []
    for file, split in zip(files, splits, strict=True):
        texts = _read_columns(root / file, schema, columns, features, config.label_separator)
        if image is not None:
            count = open_parquet(root / file).metadata.num_rows
            texts.insert(0, [f"{file}#{row}" for row in range(count)])
            if path_column is not None and "id" not in columns:
                texts.append(_image_paths(root / file, image, path_column, texts[0]))
        for row, cells in enumerate(zip(*texts, strict=True)):
            line = f"{row}" if len(files) == 1 else f"{row} of {file}"
            records.append((line, [*cells, *([split or ""] * with_split)]))
    if not records:
        raise DataError(f"{what} has no rows")
    if image is None:
        return table_of_records(header, records, FileFinder(FolderSource(root), ""), config, name=name, what=what)
    source = ParquetSource(root, image if path_column is None and not _is_struct(schema, image) else f"{image}.bytes")
    config = replace(config, image_column=image)
    return table_of_records(header, records, FileFinder(source, ""), config, name=name, what=what)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the features that the library `datasets` has described in the metadata of a file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _is_struct(schema: Any, column: str) -> bool:
    return bool(schema.field(column).type.num_fields) and str(schema.field(column).type).startswith("struct")


def _image_column(schema: Any, features: Mapping[str, Any], config: DataConfig) -> str | None:
    """Return the column with the bytes of images; None if the files have paths instead."""
    binary = {column for column in schema.names if str(schema.field(column).type) in ("binary", "large_binary")}
    structs = {
        column
        for column in schema.names
        if _is_struct(schema, column) and "bytes" in [field.name for field in schema.field(column).type]
    }
    candidates = [column for column in schema.names if column in binary | structs]
    if config.image_column is not None:
        return config.image_column if config.image_column in candidates else None
    described = [
        column
        for column in candidates
        if isinstance(features.get(column), dict) and features[column].get("_type") == "Image"
    ]
    usual = table_column(candidates, IMAGE_COLUMNS)
    return next(iter([*described, *([] if usual is None else [candidates[usual]]), *candidates]), None)


def _path_column(schema: Any, image: str) -> str | None:
    """Return the name of the field with the original path of an image."""
    fields = [field.name for field in schema.field(image).type] if _is_struct(schema, image) else []
    return "path" if "path" in fields else None


def _read_columns(
    path: Path, schema: Any, columns: Sequence[str], features: Mapping[str, Any], separator: str | None
) -> list[list[str]]:
    """Return the cells of some columns as text, column by column."""
    file = open_parquet(path)
    if file.schema_arrow.names != schema.names:
        raise DataError(
            f"{path} has the columns {', '.join(file.schema_arrow.names)}, and the first file {', '.join(schema.names)}"
        )
    if not columns:
        return []
    with parquet_errors(path):
        values = file.read(columns=list(columns), use_threads=False)
        return [
            [_text(value, _class_names(features.get(column)), separator) for value in values.column(column).to_pylist()]
            for column in columns
        ]


def _class_names(feature: Any) -> Sequence[str]:
    """Return the names of the classes of a `ClassLabel`, or of a list of them."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _text(value: Any, names: Sequence[str], separator: str | None) -> str:
    """Return a cell as text; the number of a class as its name."""
    if value is None or (names and value == -1):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        texts = [_text(item, names, None) for item in value]
        return json.dumps(texts) if separator is None else separator.join(texts)
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def _image_paths(path: Path, image: str, field: str, locations: Sequence[str]) -> list[str]:
    """Return the original paths of the images of a file; the locations if they are not unique."""
    with parquet_errors(path):
        values = open_parquet(path).read(columns=[f"{image}.{field}"], use_threads=False).column(0).to_pylist()
    paths = [value.get(field) if value else None for value in values]
    return [str(name) for name in paths] if all(paths) and len(set(paths)) == len(paths) else list(locations)
