"""Read a folder or an archive: a table of its images, class folders, or split folders."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import count, join_few
from tercet.core.untrusted_files import IMAGE_COLUMNS, column_key
from tercet.data.readers.folder import find_layout, folder_options, read_folders
from tercet.data.readers.image_tree import ImageTree
from tercet.data.readers.layouts import EXAMPLE, Layout, SplitFolders
from tercet.data.readers.listed_files import FilesByName
from tercet.data.readers.metadata import read_metadata
from tercet.data.readers.named_folders import named_splits
from tercet.data.readers.own_output import without_own_output
from tercet.data.readers.records import TABLE_SUFFIXES, decode_table
from tercet.data.readers.scan import NO_EXTENSION, Listing, is_image, no_images
from tercet.data.readers.split_names import split_name
from tercet.data.readers.table import read_table, refuse_table_options, table_options
from tercet.data.sources import FolderSource, ZipSource
from tercet.data.table import SampleTable

_PREFERRED = ("labels", "train")  # names of the table to read if there are several
SUBMISSION = re.compile(r"(?i).*sample[\W_]*submi.*|.*submission[\W_]*(format|sample|example)?")
"""Names, without extension, of sample submissions, which list images without their labels."""
_TRAINING_TABLE = re.compile(r"(?i)train(ing)?([\W_]*(set|data|labels?|images?|v?\d+))*")


def read_tree(
    listing: Listing, source: FolderSource | ZipSource, config: DataConfig, *, name: str, what: str
) -> SampleTable:
    """Read the images of a folder or an archive.

    Args:
        listing: Its files.
        source: Reads them.
        config: Options.
        name: Name of the data.
        what: Path of the data, for messages.

    Raises:
        DataError: There are no images, or it is unclear what the folders are.
        ConfigError: An option does not apply.
    """
    listing, notes = without_own_output(listing, source)
    images = [path for path in listing.files if is_image(path)]
    if not images:
        skipped = [*listing.skipped, *((path, NO_EXTENSION) for path in listing.files)]
        raise DataError(f"{no_images(what, skipped)}: {EXAMPLE}")
    metadata = None if folder_options(config) else read_metadata(listing, source, config, name=name, what=what)
    if metadata is not None:
        return replace(metadata, notes=(*notes, *metadata.notes))
    tree = ImageTree(images, _empty_folders(listing))
    table = _Reader(listing, tree, source, config, name, what).read()
    return replace(table, notes=(*notes, *table.notes))


def _empty_folders(listing: Listing) -> list[str]:
    """Return the folders without any file."""
    used = {""}
    for path in listing.files:
        folder = posixpath.dirname(path)
        while folder not in used:
            used.add(folder)
            folder = posixpath.dirname(folder)
    return [folder for folder in listing.folders if folder not in used]


class _Reader:
    """Decides between a table and folders."""

    def __init__(
        self,
        listing: Listing,
        tree: ImageTree,
        source: FolderSource | ZipSource,
        config: DataConfig,
        name: str,
        what: str,
    ) -> None:
        self.listing, self.tree, self.source, self.config = listing, tree, source, config
        self.name, self.what = name, what
        self.root = tree.unwrap()
        self.top = tree.names(self.root)
        self.tables = self._find_tables()

    def _find_tables(self) -> list[str]:
        """Return the tables beside the class folders, or in the only folder."""
        prefix = f"{self.root}/" if self.root else ""
        names = {path: PurePosixPath(path) for path in self.listing.files}
        tables = [
            path
            for path, file in names.items()
            if file.suffix.lower() in TABLE_SUFFIXES and not SUBMISSION.fullmatch(file.stem)
        ]
        inside = [path for path in tables if path.startswith(prefix)] or tables  # a table may be beside a wrapper
        level = min((path.count("/") for path in inside), default=0)
        return [path for path in inside if path.count("/") == level <= prefix.count("/") + (len(self.top) < 2)]

    def read(self) -> SampleTable:
        """Read the table or the folders."""
        config, what = self.config, self.what
        folders = folder_options(config)
        if config.layout == "table" or table_options(config):
            if folders:
                raise ConfigError(
                    f"--data.{folders[0].replace('_', '-')} applies to folders, and other options to a table"
                )
            if not self.tables:
                refuse_table_options(config, what)
                raise DataError(f"--data.layout table: {what} holds no table ({', '.join(sorted(TABLE_SUFFIXES))})")
            return self._read_table(_choose_table(self.tables, what))
        if folders:
            return self._read_folders(None if named_splits(config) else find_layout(self.tree, config, what=what))
        if self.tables and len(self.top) < 2:
            return self._read_table(_choose_table(self.tables, what))
        layout = find_layout(self.tree, config, what=what)
        if layout is None and (table := self._table_of_image_folders()) is not None:
            return table
        return self._read_folders(layout)

    def _read_folders(self, layout: Layout | None) -> SampleTable:
        listing = replace(self.listing, files=tuple(path for path in self.listing.files if path not in self.tables))
        table = read_folders(listing, self.tree, layout, self.source, self.config, name=self.name, what=self.what)
        if not self.tables:
            return table
        return table.with_notes(f"{join_few([*map(repr, self.tables)])} not read: --data.layout table reads it instead")

    def _table_of_image_folders(self) -> SampleTable | None:
        """Read a table beside folders that only store images; None if there is none, or they may be classes.

        Raises:
            DataError: The table cannot be read, or does not list the images.
        """
        training = [path for path in self.tables if _TRAINING_TABLE.fullmatch(PurePosixPath(path).stem)]
        only_images = all(split_name(folder).kind for folder in self.top)
        if not self.tables or not (training or only_images):
            return None
        chosen = (training or self.tables)[0]
        folder = min(self.top, key=lambda name: split_name(name).kind != "train")
        try:
            return self._read_table(_choose_table(training or self.tables, self.what))
        except (DataError, ConfigError) as error:
            raise DataError(
                f"{self.what} holds the table {chosen!r} beside folders of images "
                f"({join_few([*map(repr, self.top)])}), and it cannot be read ({error}): give --data.image-column, "
                f"--data.label-columns or --data.image-pattern '{folder}/{{COLUMN}}.jpg' to read it, or --data.layout "
                "classes or splits to ignore it"
            ) from error

    def _read_table(self, location: str) -> SampleTable:
        """Read a table whose files may be named without folder and extension."""
        what, folder = f"{self.what}:{location}", location[: len(location) - len(PurePosixPath(location).name)]
        unlabelled = self._unlabelled_folders(location)
        prefixes = tuple(f"{path}/" for path in unlabelled)
        files = FilesByName(self.source, [path for path in self.tree.images if not path.startswith(prefixes or "\0")])
        config, notes = self.config, []
        if config.image_column is None and config.image_pattern is None:
            header, records = decode_table(self.source.content(location), name=what)
            column = files.image_column(header, records, folder)
            if column is not None and column_key(column) not in IMAGE_COLUMNS:
                config = replace(config, image_column=column)
                notes.append(f"file names of {location} are in the column '{column}'")
        table = read_table(location, self.source, config, name=self.name, what=what, find=files.find)
        if files.folders:
            notes.append(f"files of {location} are in {join_few([f'{name}/' for name in files.folders])}")
        listed = {*table.locations}
        remaining = [path for path in self.tree.images if path not in listed]
        tests = [path for path in remaining if path.startswith(prefixes or "\0")]
        if tests:
            text = f"{count(len(tests), 'image')} in {join_few([*prefixes])} not in {location}"
            notes.append(f"{text}: unlabelled, predicted by tercet train --predict-test only")
        if others := len(remaining) - len(tests):
            notes.append(f"{count(others, 'image')} not in {location}: left out")
        return replace(table, layout=f"table {location}", unlabelled=tuple(tests)).with_notes(*notes)

    def _unlabelled_folders(self, location: str) -> list[str]:
        """Return the folders of a test split without class folders, unless the table is that of a test split."""
        kinds = {name: split_name(name).kind for name in self.top}
        tests = SplitFolders(self.tree, self.root, self.what).of_kind("test", "unlabelled", nested=False)
        if len(tests) == len(kinds) or split_name(PurePosixPath(location).stem).kind in ("test", "unlabelled"):
            return []
        return [posixpath.join(self.root, name) for name in tests]


def _choose_table(tables: Sequence[str], what: str) -> str:
    if len(tables) == 1:
        return tables[0]
    preferred = [path for stem in _PREFERRED for path in tables if PurePosixPath(path).stem.casefold() == stem]
    preferred += [path for path in tables if _TRAINING_TABLE.fullmatch(PurePosixPath(path).stem)]
    if not preferred:
        raise DataError(
            f"{what} holds {len(tables)} tables ({', '.join(tables[:5])}): give the path of one of them as the data"
        )
    return preferred[0]
