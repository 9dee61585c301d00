"""Competition submissions: predictions with the columns and row order of a sample submission. N rows, K classes.

A sample has an id column and either one label column or one probability column per class. Cells are not escaped against
spreadsheet formulas, since programs read submissions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tercet.core.errors import DataError
from tercet.core.files import csv_text, write_text
from tercet.core.output import join_few
from tercet.core.predictions import Predictions
from tercet.core.untrusted_files import ID_COLUMNS, decode_text, parse_table, read_start


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
    """K texts for the classes: names, or numbers if the sample has numbers."""

    @classmethod
    def read(cls, path: str | Path, classes: Sequence[str]) -> SampleSubmission:
        """Read a sample submission for a classifier of K classes.

        Raises:
            DataError: The file is missing or not a table, or has invalid columns, labels or ids.
        """
        source = Path(path)
        read_start(source)
        header, records = parse_table(decode_text(source), name=source, delimiter=",")
        if len(header) < 2:
            raise DataError(f"{source} is not a sample submission: it needs a header such as 'id,label'")
        rows = [row for _, row in records]
        id_column = _id_column(header, classes)
        others = [column for column in range(len(header)) if column != id_column]
        ids = [row[id_column].strip() for row in rows]
        if (most := Counter(ids).most_common(1)) and most[0][1] > 1:
            raise DataError(f"{source} contains '{most[0][0]}' {most[0][1]} times, expected one row per image")
        if len(others) == 1:
            texts = {row[others[0]].strip() for row in rows} - {""}
            labels = _class_texts(texts, classes, f"{source} has the label")
            return cls(source, tuple(header), id_column, tuple(ids), (), labels)
        names = [header[column].strip() for column in others]
        if len(set(names)) < len(names):
            raise DataError(f"{source} has a column twice: {', '.join(header)}")
        labels = _class_texts(names, classes, f"{source} has the column")
        missing = [name for name in labels if name not in names]
        if missing:
            raise DataError(f"{source} has no column for {len(missing)} of the classes, such as '{missing[0]}'")
        return cls(source, tuple(header), id_column, tuple(ids), tuple(labels.index(name) for name in names), labels)

    def match(self, names: Sequence[str]) -> list[int]:
        """Return the index in `names` of each of the N ids.

        An id is a file name with or without suffix and folders; if several files have the same name, the folders in the
        id decide.

        Raises:
            DataError: An id has no image, an image has no id, or an id matches several images.
        """
        by_name: dict[str, list[int]] = defaultdict(list)
        by_stem: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(names):
            by_name[_path(name).name].append(index)
            by_stem[_path(name).stem].append(index)
        matches: dict[int, str] = {}
        missing = []
        for sample_id in self.ids:
            file_name = _path(sample_id).name
            candidates = by_name.get(file_name) or by_stem.get(file_name) or by_stem.get(_path(file_name).stem) or []
            if len(candidates) > 1:
                candidates = self._match_folders(sample_id, candidates, names)
            if not candidates:
                missing.append(sample_id)
            elif candidates[0] in matches:
                both = f"'{matches[candidates[0]]}' and '{sample_id}'"
                raise DataError(f"{self.source}: {both} both match the image {names[candidates[0]]}")
            else:
                matches[candidates[0]] = sample_id
        extra = [name for index, name in enumerate(names) if index not in matches]
        self._require_all(missing, extra)
        return list(matches)

    def _match_folders(self, sample_id: str, candidates: Sequence[int], names: Sequence[str]) -> list[int]:
        """Return the only candidate in the folders of the id."""
        folders = _path(sample_id).parent.parts
        inside = [index for index in candidates if _path(names[index]).parent.parts[-len(folders) :] == folders]
        if len(inside) != 1:
            several = " or ".join(names[index] for index in (inside or candidates)[:2])
            raise DataError(f"{self.source}: '{sample_id}' could be {several}: give only the images of the competition")
        return inside

    def _require_all(self, missing: Sequence[str], extra: Sequence[str]) -> None:
        problems = []
        if missing:
            problems.append(f"{len(missing)} of its {len(self.ids)} rows have no image, such as '{missing[0]}'")
        if extra:
            problems.append(f"{len(extra)} image(s) have no row in it, such as {extra[0]}")
        if problems:
            raise DataError(f"{self.source} does not match the images: {'; '.join(problems)}")

    def write(self, predictions: Predictions, path: str | Path) -> None:
        """Write predictions with the columns and row order of the sample, atomically.

        Raises:
            DataError: The images of predictions and sample differ.
            StorageError: The file cannot be written.
        """
        rows = self.match(predictions.ids)
        best = predictions.predicted
        lines: list[Sequence[str | float]] = [self.header]
        for sample_id, row in zip(self.ids, rows, strict=True):
            cells: list[str | float] = [self.labels[best[row]]]
            if self.columns:
                cells = [float(predictions.probabilities[row, index]) for index in self.columns]
            lines.append([*cells[: self.id_column], sample_id, *cells[self.id_column :]])
        write_text(Path(path), csv_text(lines))


def write_submission(predictions: Predictions, sample: str | Path, path: str | Path) -> None:
    """Write predictions as a competition submission.

    Args:
        predictions: Predictions for exactly the images of the sample; ids are matched by file name.
        sample: Sample submission of the competition.
        path: The file; it is replaced if it exists.

    Raises:
        DataError: The sample is not a table, or its images, columns or labels do not match the predictions.
        StorageError: The file cannot be written.
    """
    SampleSubmission.read(sample, predictions.classes).write(predictions, path)


def _id_column(header: Sequence[str], classes: Sequence[str]) -> int:
    """Return the id column: one with a usual name that is not a class, else the first one."""
    folded = [name.strip().casefold() if name.strip() not in classes else "" for name in header]
    return next((folded.index(name) for name in ID_COLUMNS if name in folded), 0)


def _class_texts(texts: Collection[str], classes: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the K texts for the classes that a sample uses: names, or numbers 0 ... K-1."""
    unknown = sorted(set(texts) - set(classes))
    if not unknown:
        return tuple(classes)
    numbers = tuple(str(index) for index in range(len(classes)))
    if set(texts) <= set(numbers) and not any(name.isdecimal() for name in classes):
        return numbers
    raise DataError(
        f"{where} '{unknown[0]}', which is none of the {len(classes)} classes ({join_few(classes)}); "
        f"{len(unknown)} unknown in total"
    )


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))
