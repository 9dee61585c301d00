"""Create a `SampleTable` from a data set's name, a folder, a table or an archive."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import count
from tercet.core.registry import did_you_mean
from tercet.data.datasets.info import DATASETS, DatasetInfo
from tercet.data.exclusion import without_excluded
from tercet.data.in_memory import table_from_arrays
from tercet.data.readers.columns import sort_classes
from tercet.data.readers.folder import find_layout, wrapper_prefix
from tercet.data.readers.scan import Listing, is_image, scan_folder, scan_zip, summarise_skipped
from tercet.data.readers.table import SUFFIXES, read_table, refuse_table_options, table_options
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import IN_MEMORY, SampleTable

_PREFERRED = ("labels", "train")  # names of the table to read if an archive or a folder holds several


def load_table(data: str | Path | SampleTable, config: DataConfig, *, min_classes: int = 2) -> SampleTable:
    """Read a data set: a registered name, a folder, a CSV or TSV file, or a zip archive of a folder or table.

    Args:
        data: Name or path; a table is checked only. A registered name, optionally with a variant (`svhn:extra`), takes
            precedence over a path of that name; write `./name` for the path.
        config: How to read tables, and the folder of named data sets.
        min_classes: Minimum number of classes; 1 for an external test set.

    Raises:
        DataError: The data do not exist or are unusable; the message states the expected form.
        ConfigError: An option does not apply to the data.
    """
    text = str(data)
    if isinstance(data, SampleTable):
        require_classes(data, text, min_classes)
        return _with_groups_from_names(without_excluded(data, config.exclude), config.group_from)
    path = Path(data).expanduser()
    bare = "/" not in text and "\\" not in text
    if text.partition(":")[0] in DATASETS and ((bare and isinstance(data, str)) or not path.exists()):
        refuse_table_options(config, text)
        if path.exists():
            warnings.warn(
                f"'{text}' is the data set of this name; for the folder or file, write ./{text}", stacklevel=2
            )
        info = find_dataset(text)
        table = info.read(info, config)
    elif path.is_dir():
        source = FolderSource(path)
        table = _from_tree(scan_folder(path), source, name=path.resolve().name, what=str(path), config=config)
    elif path.suffix.lower() in SUFFIXES and path.exists():
        table = read_table(path.name, FolderSource(path.parent), config, name=path.stem, what=str(path))
    elif path.suffix.lower() == ".zip" and path.exists():
        archive = ZipSource(path)
        table = _from_tree(scan_zip(archive), archive, name=path.stem, what=str(path), config=config)
    elif path.exists():
        raise DataError(f"{path} is not a folder, .csv, .tsv or .zip")
    elif IN_MEMORY.fullmatch(text):
        raise DataError(f"the images of {text} were not stored before the run stopped: start it again from Python")
    else:
        raise DataError(f"no data at '{data}'{did_you_mean(text, DATASETS)} (data sets by name: {', '.join(DATASETS)})")
    table = without_excluded(table, config.exclude)
    require_classes(table, text, min_classes)
    return _with_groups_from_names(table, config.group_from)


def find_dataset(text: str) -> DatasetInfo:
    """Return a named data set; `NAME:VARIANT` selects one of its variants.

    Raises:
        ConfigError: The name or the variant is unknown.
    """
    name, colon, variant = text.partition(":")
    part = DATASETS[name]
    info = part if isinstance(part, DatasetInfo) else _describe_function(name, part)
    if not colon:
        return info
    if variant not in info.variants:
        known = ", ".join(f"{name}:{variant}" for variant in info.variants)
        raise ConfigError(f"{name} has no variant '{variant}' ({f'variants: {known}' if known else 'it has none'})")
    return replace(info, variant=variant)


def _describe_function(name: str, function: Callable[[DataConfig], Any]) -> DatasetInfo:
    """Describe a data set that is a registered function, by its docstring."""

    def read(info: DatasetInfo, config: DataConfig) -> SampleTable:
        data = function(config)
        if isinstance(data, SampleTable):
            return data
        if isinstance(data, str | Path):
            if not Path(data).exists():
                raise DataError(f"no data at '{data}', which the data set '{name}' returned")
            return load_table(Path(data), replace(config, group_from=None, exclude=None), min_classes=1)
        if isinstance(data, tuple) and len(data) == 2:
            return table_from_arrays(*data, name=name)
        raise DataError(
            f"the data set '{name}' returned {type(data).__name__}, expected a path, arrays (images, labels) or a table"
        )

    return DatasetInfo(name, (inspect.getdoc(function) or name).partition("\n")[0], read)


def require_classes(table: SampleTable, what: str, minimum: int = 2) -> None:
    """Raise a `DataError` if the table has fewer classes."""
    if table.num_classes < minimum:
        classes = f"one class ('{table.classes[0]}')" if table.classes else "no labels"
        raise DataError(f"{what} has {classes}: need at least 2 classes")


def _from_tree(
    listing: Listing, source: FolderSource | ZipSource, *, name: str, what: str, config: DataConfig
) -> SampleTable:
    """Read class folders; read the table instead if table options are set or there are no class folders."""
    prefix = wrapper_prefix(listing)
    images = [path[len(prefix) :] for path in listing.files if path.startswith(prefix) and is_image(path)]
    class_folders = {path.split("/")[0] for path in images if "/" in path}
    tables = [
        path for path in listing.files if path.startswith(prefix) and PurePosixPath(path).suffix.lower() in SUFFIXES
    ]
    level = min((path.count("/") for path in tables), default=0)
    few_folders = len(class_folders) < 2
    # tables beside the class folders, or in the only folder
    tables = [path for path in tables if path.count("/") == level <= prefix.count("/") + few_folders]
    if tables and (table_options(config) or few_folders):
        chosen = _choose_table(tables, what)
        return read_table(chosen, source, config, name=name, what=f"{what}:{chosen}")
    refuse_table_options(config, what)
    layout = find_layout(listing, what=what, tables=tables)
    classes = sort_classes(layout.class_names)
    notes = list(summarise_skipped(layout.skipped))
    if layout.empty:
        notes.append(f"{count(len(layout.empty), 'class folder')} without images: {', '.join(layout.empty[:5])}")
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    labels = np.array([index_of[class_name] for class_name in layout.class_names], dtype=np.int64)
    return SampleTable(
        name,
        layout.ids,
        layout.locations,
        labels,
        classes,
        source,
        splits=layout.splits,
        notes=tuple(notes),
        empty=layout.empty,
    )


def _choose_table(tables: Sequence[str], what: str) -> str:
    if len(tables) == 1:
        return tables[0]
    preferred = [path for stem in _PREFERRED for path in tables if PurePosixPath(path).stem.casefold() == stem]
    if not preferred:
        raise DataError(
            f"{what} holds {len(tables)} tables ({', '.join(tables[:5])}): give the path of one of them as the data"
        )
    return preferred[0]


def _with_groups_from_names(table: SampleTable, pattern: str | None) -> SampleTable:
    """Set groups by a regular expression on file names; a sample that does not match gets its own group."""
    if pattern is None:
        return table
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.group_from '{pattern}' is not a regular expression: {error}") from error
    if not expression.groups:
        raise ConfigError(f"data.group_from '{pattern}' has no group: put parentheses around the group's name")
    if table.groups is not None:
        raise ConfigError("give either data.group_column or data.group_from, not both")
    matches = [expression.search(PurePosixPath(location).name) for location in table.locations]
    names = [match[1] if match else None for match in matches]
    if not any(names):
        raise DataError(f"data.group_from '{pattern}' matches no file name, such as '{table.locations[0]}'")
    groups = tuple(name or f"={sample}" for name, sample in zip(names, table.ids, strict=True))
    unmatched = sum(not name for name in names)
    notes = [f"{unmatched} file names do not match data.group_from: each is a group of its own"] if unmatched else []
    return replace(table, groups=groups).with_notes(*notes)
