"""Create a `SampleTable` from a data set's name, a folder, a table or an archive."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.files import natural_key
from tercet.core.registry import PARTS, Registry, did_you_mean
from tercet.data.datasets import DATASET_INFOS
from tercet.data.datasets.info import DatasetInfo
from tercet.data.readers.columns import membership_of, placeholder_labels
from tercet.data.readers.folder import find_layout, wrapper_prefix
from tercet.data.readers.scan import Listing, is_image, scan_folder, scan_zip, summarise_skipped
from tercet.data.readers.table import SUFFIXES, TableRows, read_table, require_files
from tercet.data.sources import FolderSource, ImageSource, ZipSource
from tercet.data.table import IN_MEMORY, UNLABELLED, SampleTable

DATASETS: Registry[DatasetInfo] = PARTS["dataset"]
for _info in DATASET_INFOS:
    DATASETS.register(_info.name)(_info)

_TABLE_OPTIONS = ("image_column", "label_columns", "label_separator", "group_column", "image_pattern")
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
        return _with_groups_from_names(data, config.group_from)
    path = Path(data).expanduser()
    bare = "/" not in text and "\\" not in text
    if text.partition(":")[0] in DATASETS and ((bare and isinstance(data, str)) or not path.exists()):
        refuse_table_options(config, text)
        info = find_dataset(text)
        table = info.read(info, config)
    elif path.is_dir():
        source = FolderSource(path)
        table = _from_tree(scan_folder(path), source, name=path.resolve().name, what=str(path), config=config)
    elif path.suffix.lower() in SUFFIXES and path.exists():
        source = FolderSource(path.parent)
        rows = read_table(source.content(path.name), name=str(path), config=config, find=source.find)
        table = table_from_rows(rows, source, name=path.stem, what=str(path), config=config)
    elif path.suffix.lower() == ".zip" and path.exists():
        archive = ZipSource(path)
        table = _from_tree(scan_zip(archive), archive, name=path.stem, what=str(path), config=config)
    elif path.exists():
        raise DataError(f"{path} is not a folder, .csv, .tsv or .zip")
    elif IN_MEMORY.fullmatch(text):
        raise DataError(f"the images of {text} were not stored before the run stopped: start it again from Python")
    else:
        raise DataError(f"no data at '{data}'{did_you_mean(text, DATASETS)} (data sets by name: {', '.join(DATASETS)})")
    require_classes(table, text, min_classes)
    return _with_groups_from_names(table, config.group_from)


def find_dataset(text: str) -> DatasetInfo:
    """Return a named data set; `NAME:VARIANT` selects one of its variants.

    Raises:
        ConfigError: The name or the variant is unknown.
    """
    name, colon, variant = text.partition(":")
    info = DATASETS[name]
    if not colon:
        return info
    if variant not in info.variants:
        known = ", ".join(f"{name}:{variant}" for variant in info.variants)
        raise ConfigError(f"{name} has no variant '{variant}' ({f'variants: {known}' if known else 'it has none'})")
    return replace(info, variant=variant)


def require_classes(table: SampleTable, what: str, minimum: int = 2) -> None:
    """Raise a `DataError` if the table has fewer classes."""
    if table.num_classes < minimum:
        classes = f"one class ('{table.classes[0]}')" if table.classes else "no labels"
        raise DataError(f"{what} has {classes}: need at least 2 classes")


def sort_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the unique names in natural order (`class10` after `class9`); warn of names that look alike."""
    unique = sorted({name for name in names if name}, key=lambda name: (natural_key(name), name))
    alike: dict[str, str] = {}
    for name in unique:
        twin = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            warnings.warn(
                f"classes '{twin}' and '{name}' differ only in case or Unicode form", UserWarning, stacklevel=2
            )
    return tuple(unique)


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
    if tables and (_table_options(config) or few_folders):
        chosen = _choose_table(tables, what)
        base = chosen[: len(chosen) - len(PurePosixPath(chosen).name)]
        rows = read_table(
            source.content(chosen), name=f"{what}:{chosen}", config=config, find=lambda file: source.find(base + file)
        )
        return table_from_rows(rows, source, name=name, what=what, config=config)
    refuse_table_options(config, what)
    layout = find_layout(listing, what=what, tables=tables)
    classes = sort_classes(layout.class_names)
    notes = list(summarise_skipped(layout.skipped))
    if layout.empty:
        notes.append(f"{len(layout.empty)} class folders hold no images: {', '.join(layout.empty[:5])}")
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


def table_from_rows(rows: TableRows, source: ImageSource, *, name: str, what: str, config: DataConfig) -> SampleTable:
    """Return the table of the rows that `read_table` read from `what`."""
    require_files(len(rows.missing), len(rows.ids), what, rows.notes, config)
    sets = rows.label_sets
    classes = sort_classes(rows.labels if sets is None else [label for labels in sets for label in labels or ()])
    if not classes:
        raise DataError(f"{what}: no row has a label{'' if sets is None else ': all label sets are empty'}")
    index_of = {class_name: index for index, class_name in enumerate(classes)}
    labels = [index_of.get(label, UNLABELLED) for label in rows.labels] if sets is None else placeholder_labels(sets)
    return SampleTable(
        name=name,
        ids=tuple(rows.ids),
        locations=tuple(rows.locations),
        labels=np.array(labels, dtype=np.int64),
        classes=classes,
        source=source,
        groups=None if rows.groups is None else tuple(rows.groups),
        splits=None if rows.splits is None else tuple(rows.splits),
        folds=None if rows.folds is None else np.array(rows.folds, dtype=np.int64),
        weights=None if rows.weights is None else np.array(rows.weights, dtype=np.float64),
        notes=tuple(rows.notes),
        membership=None if sets is None else membership_of(sets, classes),
        missing=tuple(rows.missing),
    )


def _table_options(config: DataConfig) -> list[str]:
    return [option for option in _TABLE_OPTIONS if getattr(config, option) is not None]


def refuse_table_options(config: DataConfig, what: str) -> None:
    """Raise a `ConfigError` if an option is set that applies to tables only."""
    if options := _table_options(config):
        raise ConfigError(f"data.{options[0]} applies to tables only, and {what} is not and does not hold a table")


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
