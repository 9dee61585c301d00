"""Submissions: predictions in a competition's own header and order, checked against its sample file.

Two shapes are known, told by the sample: an id and a label, or an id and one column of probabilities a class. Cells are
written as they are: a submission is for a program, so nothing is guarded against spreadsheets. N rows, K classes.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tercet.core.errors import DataError
from tercet.core.files import atomic_path
from tercet.core.predictions import Predictions
from tercet.core.untrusted_files import ID_COLUMNS, decode_text, read_start


@dataclass(frozen=True)
class SampleSubmission:
    """What a sample file asks for."""

    source: Path
    """The file."""
    header: tuple[str, ...]
    """Its first line."""
    id_column: int
    """Place of the id in a line."""
    ids: tuple[str, ...]
    """N ids, in its order."""
    columns: tuple[int, ...]
    """Class index of each column of probabilities, in the header's order; none: a label is asked for."""
    labels: tuple[str, ...]
    """K words for the classes: their names, or their numbers where the sample shows numbers."""

    @classmethod
    def read(cls, path: str | Path, classes: Sequence[str]) -> SampleSubmission:
        """Read a sample file for a classifier of K classes.

        Raises:
            DataError: It is absent, no table, or names columns, labels or ids that cannot be.
        """
        source = Path(path)
        read_start(source)
        header, lines = _table(source)
        place = _id_column(header, classes)
        others = [column for column in range(len(header)) if column != place]
        ids = [line[place].strip() for line in lines]
        if (most := Counter(ids).most_common(1)) and most[0][1] > 1:
            raise DataError(f"{source} names '{most[0][0]}' {most[0][1]} times: a submission has one row an image")
        if len(others) == 1:
            shown = {line[others[0]].strip() for line in lines} - {""}
            return cls(source, header, place, tuple(ids), (), _labels(shown, classes, f"{source} shows the label"))
        names = [header[column].strip() for column in others]
        if len(set(names)) < len(names):
            raise DataError(f"{source} names a column twice: {', '.join(header)}")
        labels = _labels(names, classes, f"{source} has the column")
        absent = [name for name in labels if name not in names]
        if absent:
            raise DataError(f"{source} has no column for {len(absent)} of the classes, such as '{absent[0]}'")
        return cls(source, header, place, tuple(ids), tuple(labels.index(name) for name in names), labels)

    def match(self, names: Sequence[str]) -> list[int]:
        """Return the place in `names` of each of the N ids.

        An id is a file's name with or without its ending and folders; where two files share a name, the id's own
        folders tell them apart.

        Raises:
            DataError: An id without an image, an image without an id, or an id that could be several images.
        """
        by_name: dict[str, list[int]] = defaultdict(list)
        by_stem: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(names):
            by_name[_path(name).name].append(index)
            by_stem[_path(name).stem].append(index)
        found: dict[int, str] = {}
        missing = []
        for wanted in self.ids:
            last = _path(wanted).name
            candidates = by_name.get(last) or by_stem.get(last) or by_stem.get(_path(last).stem) or []
            if len(candidates) > 1:
                candidates = self._narrowed(wanted, candidates, names)
            if not candidates:
                missing.append(wanted)
            elif candidates[0] in found:
                twin = found[candidates[0]]
                raise DataError(f"{self.source}: '{twin}' and '{wanted}' both mean the image {names[candidates[0]]}")
            else:
                found[candidates[0]] = wanted
        extra = [name for index, name in enumerate(names) if index not in found]
        self._require_all(missing, extra)
        return list(found)

    def _narrowed(self, wanted: str, candidates: Sequence[int], names: Sequence[str]) -> list[int]:
        """Return the one candidate that lies in the folders that the id names."""
        folders = _path(wanted).parent.parts
        inside = [index for index in candidates if _path(names[index]).parent.parts[-len(folders) :] == folders]
        if len(inside) != 1:
            several = " or ".join(names[index] for index in (inside or candidates)[:2])
            raise DataError(f"{self.source}: '{wanted}' could be {several}: give only the competition's images")
        return inside

    def _require_all(self, missing: Sequence[str], extra: Sequence[str]) -> None:
        problems = []
        if missing:
            problems.append(f"{len(missing)} of its {len(self.ids)} rows have no image, such as '{missing[0]}'")
        if extra:
            problems.append(f"{len(extra)} image(s) have no row in it, such as {extra[0]}")
        if problems:
            raise DataError(f"{self.source} and the images do not fit: {'; '.join(problems)}")

    def write(self, predictions: Predictions, path: str | Path) -> None:
        """Write predictions in the sample's header, order and shape, atomically.

        Raises:
            DataError: The predictions are of other images than the sample's.
            StorageError: The file cannot be written.
        """
        rows = self.match(predictions.ids)
        best = predictions.predicted
        with (
            atomic_path(Path(path)) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(self.header)
            for wanted, row in zip(self.ids, rows, strict=True):
                cells: list[str | float] = [self.labels[best[row]]]
                if self.columns:
                    cells = [float(predictions.probabilities[row, index]) for index in self.columns]
                writer.writerow([*cells[: self.id_column], wanted, *cells[self.id_column :]])


def write_submission(predictions: Predictions, sample: str | Path, path: str | Path) -> None:
    """Write predictions as a competition wants them.

    Args:
        predictions: Of all images that the sample names, and of no others; ids are matched to its ids by file name.
        sample: The competition's sample file.
        path: Where to; a file there is replaced.

    Raises:
        DataError: The sample is no table, or its images, columns or labels are not those of the predictions.
        StorageError: The file cannot be written.
    """
    SampleSubmission.read(sample, predictions.classes).write(predictions, path)


def _table(source: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return header and rows of a comma separated file; blank lines are skipped."""
    reader = csv.reader(io.StringIO(decode_text(source), newline=""))
    try:
        header = tuple(next(reader, []))
        lines = []
        for line in reader:
            if line and len(line) != len(header):
                raise DataError(f"{source} line {reader.line_num} has {len(line)} cells, the header has {len(header)}")
            lines += [line] if line else []
    except csv.Error as error:
        raise DataError(f"{source} is no table of text: {error}") from error
    if len(header) < 2 or not lines:
        raise DataError(f"{source} is no sample of a submission: it needs a header such as 'id,label', and rows")
    return header, lines


def _id_column(header: Sequence[str], classes: Sequence[str]) -> int:
    """Return the place of the id: a column with a usual name that is no class, or the first one."""
    folded = [name.strip().casefold() if name.strip() not in classes else "" for name in header]
    return next((folded.index(name) for name in ID_COLUMNS if name in folded), 0)


def _labels(shown: Collection[str], classes: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the words for the classes: their names if these are shown, or their numbers 0 ... K-1."""
    unknown = sorted(set(shown) - set(classes))
    if not unknown:
        return tuple(classes)
    numbers = tuple(str(index) for index in range(len(classes)))
    if set(shown) <= set(numbers) and not any(name.isdecimal() for name in classes):
        return numbers
    raise DataError(
        f"{where} '{unknown[0]}', which is none of the {len(classes)} classes ({', '.join(classes[:5])}"
        f"{', ...' if len(classes) > 5 else ''}); {len(unknown)} in all are unknown"
    )


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))
