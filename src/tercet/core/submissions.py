"""Competition submissions: predictions with the columns and row order of a sample submission. N rows, K classes.

A sample has an id column and either one label column, one column of probabilities of a class, or one such column per
class. Cells are not escaped against spreadsheet formulas, since programs read submissions.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tercet.core.errors import ConfigError, DataError
from tercet.core.files import csv_text, write_text
from tercet.core.output import count
from tercet.core.predictions import Predictions
from tercet.core.registry import did_you_mean
from tercet.core.submission_labels import Numbering, class_texts, text_key
from tercet.core.untrusted_files import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    decode_text,
    parse_table,
    read_start,
    table_column,
    table_header,
)

_MIN_COLUMNS = 2  # id and label


@dataclass(frozen=True)
class SampleSubmission:
    """Columns, ids and label format of a sample submission."""

    source: Path
    header: tuple[str, ...]
    id_column: int
    """Column index of the id."""
    ids: tuple[str, ...]
    """N ids in file order."""
    columns: tuple[int, ...]
    """Class index of each probability column in header order; empty if the sample has a label column."""
    labels: tuple[str, ...]
    """K texts for the classes: names, or numbers if the sample has numbers; empty if it has no labels."""
    delimiter: str = ","
    files: Mapping[str, str] = field(default_factory=dict)
    """File names by id, for ids that are not file names."""

    @classmethod
    def read(
        cls,
        path: str | Path,
        classes: Sequence[str],
        *,
        numbers: Numbering | None = None,
        class_name: str | None = None,
        files: str | Path | None = None,
    ) -> SampleSubmission:
        """Read a sample submission for a classifier of K classes.

        Args:
            path: The sample.
            classes: Names of the classes.
            numbers: Meaning of numbers as labels, if the sample does not show it.
            class_name: Class whose probability a single column has.
            files: Table, or JSON file with `images`, with the id and the file name of each image.

        Raises:
            ConfigError: `class_name` is not a class, or the sample has other columns.
            DataError: The file is missing or not a table, or has invalid columns, labels or ids.
        """
        source = Path(path)
        header, rows, delimiter = _read_table(source)
        id_column = _id_column(header, classes)
        others = [column for column in range(len(header)) if column != id_column]
        ids = [row[id_column].strip() for row in rows]
        if (most := Counter(ids).most_common(1)) and most[0][1] > 1:
            raise DataError(f"{source} contains '{most[0][0]}' {most[0][1]} times, expected one row per image")
        if class_name is not None and (class_name not in classes or len(others) > 1):
            hint = did_you_mean(class_name, classes) if len(others) == 1 else f": {source} has a column for each class"
            raise ConfigError(f"--submission-class '{class_name}' is not a class of the model{hint}")
        names = [header[column].strip() for column in others]
        if len(others) > 1:
            columns, labels = _probability_columns(source, names, classes, numbers)
        else:
            texts = {row[others[0]].strip() for row in rows} - {""}
            columns, labels = (), ()
            if (index := _single_class(source, names[0], texts, classes, class_name)) is not None:
                columns = (index,)
            else:
                labels = class_texts(texts, classes, where=f"{source} has the label", numbers=numbers)
        file_names = {} if files is None else read_file_names(Path(files))
        return cls(source, tuple(header), id_column, tuple(ids), columns, labels, delimiter, file_names)

    def match(self, names: Sequence[str]) -> list[int]:
        """Return the index in `names` of each of the N ids.

        An id is a file name with or without suffix and folders, or has one in `files`; if several files have the same
        name, the folders in the id decide. Images without an id are left out, with a warning.

        Raises:
            DataError: An id has no image, or matches several images.
        """
        by_name: dict[str, list[int]] = defaultdict(list)
        by_stem: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(names):
            by_name[_path(name).name].append(index)
            by_stem[_path(name).stem].append(index)
        matches: dict[int, str] = {}
        missing = []
        for sample_id in self.ids:
            path = self.files.get(sample_id, sample_id)
            file_name = _path(path).name
            candidates = by_name.get(file_name) or by_stem.get(file_name) or by_stem.get(_path(file_name).stem) or []
            if len(candidates) > 1:
                candidates = self._match_folders(path, candidates, names)
            if not candidates:
                missing.append(sample_id)
            elif candidates[0] in matches:
                both = f"'{matches[candidates[0]]}' and '{sample_id}'"
                raise DataError(f"{self.source}: {both} both match the image {names[candidates[0]]}")
            else:
                matches[candidates[0]] = sample_id
        if missing:
            hint = "" if self.files else "; if ids are not file names, give --submission-files"
            raise DataError(
                f"{self.source} does not match the images: {len(missing)} of its {len(self.ids)} rows have no image, "
                f"such as '{missing[0]}'{hint}"
            )
        if left_out := len(names) - len(matches):
            warnings.warn(f"{count(left_out, 'image')} without a row in {self.source}: left out", stacklevel=2)
        return list(matches)

    def _match_folders(self, sample_id: str, candidates: Sequence[int], names: Sequence[str]) -> list[int]:
        """Return the only candidate in the folders of the id."""
        folders = _path(sample_id).parent.parts
        inside = [index for index in candidates if _path(names[index]).parent.parts[-len(folders) :] == folders]
        if len(inside) != 1:
            several = " or ".join(names[index] for index in (inside or candidates)[:2])
            raise DataError(f"{self.source}: '{sample_id}' could be {several}: give only the images of the competition")
        return inside

    def write(self, predictions: Predictions, path: str | Path) -> None:
        """Write predictions with the columns and row order of the sample, atomically.

        Raises:
            DataError: A row of the sample has no prediction.
            StorageError: The file cannot be written.
        """
        rows = self.match(predictions.ids)
        best = predictions.predicted
        lines: list[Sequence[str | float]] = [self.header]
        for sample_id, row in zip(self.ids, rows, strict=True):
            cells: list[str | float] = [float(predictions.probabilities[row, index]) for index in self.columns]
            cells = cells or [self.labels[best[row]]]
            lines.append([*cells[: self.id_column], sample_id, *cells[self.id_column :]])
        write_text(Path(path), csv_text(lines, self.delimiter))


def write_submission(
    predictions: Predictions,
    sample: str | Path,
    path: str | Path,
    *,
    numbers: Numbering | None = None,
    class_name: str | None = None,
    files: str | Path | None = None,
) -> None:
    """Write predictions as a competition submission.

    Args:
        predictions: Predictions for the images of the sample; ids are matched by file name. Others are left out.
        sample: Sample submission of the competition.
        path: The file; it is replaced if it exists.
        numbers: Meaning of numbers as labels, if the sample does not show it: positions counted from "0" or "1", or
            the numbers at the ends of the class "names".
        class_name: Class whose probability a single column has.
        files: Table, or JSON file with `images`, with the id and the file name of each image.

    Raises:
        ConfigError: `class_name` is not a class, or the sample has other columns.
        DataError: The sample is not a table, or its images, columns or labels do not match the predictions.
        StorageError: The file cannot be written.
    """
    read = SampleSubmission.read(sample, predictions.classes, numbers=numbers, class_name=class_name, files=files)
    read.write(predictions, path)


def _read_table(source: Path) -> tuple[list[str], list[list[str]], str]:
    """Return header, rows and delimiter of a table: a comma if it separates columns, else semicolon or tab."""
    read_start(source)
    text = decode_text(source)
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "," if "," in first_line else table_header(text)[1]
    header, records = parse_table(text, name=source, delimiter=delimiter)
    if len(header) < _MIN_COLUMNS:
        raise DataError(f"{source} is not a sample submission: it needs a header such as 'id,label'")
    return header, [row for _, row in records], delimiter


def read_file_names(source: Path) -> dict[str, str]:
    """Return file names by image id: of a table, or of a JSON file with `images` that have `id` and `file_name`.

    Raises:
        DataError: The file has another form.
    """
    read_start(source)
    text = decode_text(source)
    if source.suffix.lower() == ".json":
        try:
            return {str(image["id"]): str(image["file_name"]) for image in json.loads(text)["images"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{source} has no list 'images' of objects with 'id' and 'file_name'") from error
    header, records = parse_table(text, name=source)
    file_column = table_column(header, [name for name in IMAGE_COLUMNS if not name.endswith("id")])
    id_column = table_column(header, ("id", "imageid", "imgid"))
    if file_column is None or id_column is None:
        raise DataError(f"{source} needs a column 'id' and a column 'file_name' (columns: {', '.join(header)})")
    return {row[id_column].strip(): row[file_column].strip() for _, row in records}


def _probability_columns(
    source: Path, names: Sequence[str], classes: Sequence[str], numbers: Numbering | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the class index of each column, and the K texts for the classes."""
    if len(set(names)) < len(names):
        raise DataError(f"{source} has a column twice: {', '.join(names)}")
    labels = class_texts(names, classes, where=f"{source} has the column", numbers=numbers)
    missing = [name for name in labels if name not in names]
    if missing:
        raise DataError(f"{source} has no column for {len(missing)} of the classes, such as '{missing[0]}'")
    return tuple(labels.index(name) for name in names), labels


def _single_class(
    source: Path, name: str, texts: Collection[str], classes: Sequence[str], class_name: str | None
) -> int | None:
    """Return the class whose probability the only column has; None if it is a column of labels."""
    if class_name is not None:
        return classes.index(class_name)
    if set(texts) <= set(classes) or not all(map(_is_probability, texts)):
        return None
    matches = [index for index, item in enumerate(classes) if text_key(item) == text_key(name)]
    if matches:
        return matches[0]
    if all(text.isdecimal() for text in texts):
        return None
    raise DataError(
        f"{source} has one column of probabilities, '{name}': give the class whose probability it is with "
        f"--submission-class ({', '.join(classes[:5])})"
    )


def _is_probability(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _id_column(header: Sequence[str], classes: Sequence[str]) -> int:
    """Return the id column: one with a usual name that is not a class, else the first one."""
    return table_column([name if name.strip() not in classes else "" for name in header], ID_COLUMNS) or 0


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))
