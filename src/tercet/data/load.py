"""Create a `SampleTable` from a data set's name, a folder, a table or an archive."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.config.run import DataConfig
from tercet.core.archives import TAR_SUFFIXES
from tercet.core.errors import ConfigError, DataError
from tercet.core.registry import did_you_mean
from tercet.data.datasets.info import DATASETS, DatasetInfo
from tercet.data.exclusion import without_excluded
from tercet.data.in_memory import table_from_arrays
from tercet.data.readers.folder import refuse_folder_options
from tercet.data.readers.name_patterns import class_hint, compile_pattern, first_groups, group_hint
from tercet.data.readers.parquet import SUFFIX as PARQUET
from tercet.data.readers.parquet import parquet_files, read_parquet
from tercet.data.readers.records import LIST_SUFFIXES
from tercet.data.readers.scan import scan_folder, scan_zip
from tercet.data.readers.side_columns import own_group
from tercet.data.readers.table import read_table, refuse_table_options
from tercet.data.readers.tree import read_tree
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import IN_MEMORY, SampleTable
from tercet.data.unpacked import data_stem, unpacked


def load_table(data: str | Path | SampleTable, config: DataConfig, *, min_classes: int = 2) -> SampleTable:
    """Read a data set: a registered name, a folder, a CSV or TSV file, or an archive (zip, tar) of a folder or table.

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
        refuse_folder_options(config, text)
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
        if isinstance(DATASETS[info.name], DatasetInfo):
            refuse_folder_options(config, f"the data set {text}")
        table = info.read(info, config)
    elif path.is_dir():
        links = config.follow_links
        listing, name = scan_folder(path, follow_links=links), path.resolve().name
        if files := parquet_files(listing):
            refuse_folder_options(config, f"the Parquet files of {path}")
            table = read_parquet(path, files, config, name=name, what=text)
        else:
            table = read_tree(listing, FolderSource(path, follow_links=links), config, name=name, what=text)
    elif path.suffix.lower() == PARQUET and path.exists():
        refuse_folder_options(config, f"the table {path}")
        table = read_parquet(path.parent, [path.name], config, name=path.stem, what=text)
    elif path.suffix.lower() in LIST_SUFFIXES and path.exists():
        refuse_folder_options(config, f"the table {path}")
        source = FolderSource(path.parent, follow_links=config.follow_links)
        table = read_table(path.name, source, config, name=path.stem, what=text)
    elif path.suffix.lower() == ".zip" and path.exists():
        archive = ZipSource(path)
        table = read_tree(scan_zip(archive), archive, config, name=path.stem, what=text)
    elif path.name.lower().endswith(TAR_SUFFIXES) and path.exists():
        folder = unpacked(path)
        table = read_tree(scan_folder(folder), FolderSource(folder), config, name=data_stem(path), what=text)
    elif path.exists():
        archives, tables = (".zip", *TAR_SUFFIXES), (*LIST_SUFFIXES, PARQUET)
        kinds = f"an archive ({', '.join(archives)}), or a table ({', '.join(sorted(tables))})"
        raise DataError(f"{path} is not a folder, {kinds}")
    elif IN_MEMORY.fullmatch(text):
        raise DataError(f"the images of {text} were not stored before the run stopped: start it again from Python")
    else:
        raise DataError(f"no data at '{data}'{did_you_mean(text, DATASETS)} (data sets by name: {', '.join(DATASETS)})")
    table = without_excluded(table, config.exclude)
    require_classes(table, text, min_classes)
    if config.group_from is None and table.groups is None and isinstance(table.source, FolderSource | ZipSource):
        hint = group_hint(table.locations)
        return table.with_notes(hint) if hint else table
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
        hint = class_hint(table.locations) if isinstance(table.source, FolderSource | ZipSource) else ""
        notes = "".join(f"; {note}" for note in table.notes)
        raise DataError(f"{what} has {classes}: need at least 2 classes{hint}{notes}")


def _with_groups_from_names(table: SampleTable, pattern: str | None) -> SampleTable:
    """Set groups by a regular expression on file names; a sample that does not match gets its own group."""
    if pattern is None:
        return table
    expression = compile_pattern(pattern, "group-from")
    if table.groups is not None:
        raise ConfigError("give either --data.group-column or --data.group-from, not both")
    names = first_groups(expression, table.locations)
    if not any(names):
        raise DataError(f"--data.group-from '{pattern}' matches no file name, such as '{table.locations[0]}'")
    groups = tuple(name or own_group(sample) for name, sample in zip(names, table.ids, strict=True))
    unmatched = sum(not name for name in names)
    notes = [f"{unmatched} file names do not match data.group_from: each is a group of its own"] if unmatched else []
    return replace(table, groups=groups).with_notes(*notes)
