"""Predictions of the unlabelled test images that come with the data, with the bundle of a finished run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import count
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.submissions import write_submission
from tercet.data.inputs import ImageInputs
from tercet.data.load import load_table
from tercet.data.readers.tree import SUBMISSION
from tercet.data.table import UNLABELLED, SampleTable
from tercet.ensemble.bundle import Bundle
from tercet.inference.predict import PredictionResult

CSV, SUBMISSION_CSV = "test_predictions.csv", "submission.csv"
"""File names in the run folder."""


def require_test_images(table: SampleTable) -> None:
    """Raise a `ConfigError` if the data have no unlabelled test images."""
    if not len(unlabelled_test(table)):
        raise ConfigError(
            f"--predict-test: {table.name} has no unlabelled test images, such as photos/test/1.jpg beside "
            "photos/train/<class>/: name their folder with --data.test FOLDER, or use tercet predict"
        )


def unlabelled_test(table: SampleTable) -> SampleTable:
    """Return the images of a test folder without class folders, and unlabelled rows of the test split."""
    if table.unlabelled:
        files = table.unlabelled
        return SampleTable(table.name, files, files, np.full(len(files), UNLABELLED), table.classes, table.source)
    rows = table.rows_of("test")
    return table.take(rows[table.labels[rows] == UNLABELLED])


def predict_test(
    run: RunFolder, bundle: Bundle, data: str | Path | SampleTable, config: DataConfig, *, device: str
) -> list[str]:
    """Predict the unlabelled test images, and return lines for the report.

    Writes `test_predictions.csv` into the run folder and, if a sample submission is beside the data and matches the
    images, `submission.csv`.

    Raises:
        DataError: The data cannot be read.
        StorageError: A file cannot be written.
    """
    source = ImageInputs(unlabelled_test(load_table(data, config)), skip_bad=True)
    predictions = bundle.predict(source, device=device)
    PredictionResult(predictions, tuple(source.bad), 1, bundle.calibration).write_csv(run.path / CSV)
    lines = [f"{count(len(predictions.ids), 'unlabelled test image')} predicted: {run.path / CSV}"]
    lines += [f"unreadable: {image}" for image in source.bad]
    for sample in _sample_submissions(data):
        try:
            if not isinstance(predictions, Predictions):
                raise DataError("a submission has one class per image, and this model is multi-label")
            write_submission(predictions, sample, run.path / SUBMISSION_CSV)
            lines.append(f"submission in the format of {sample}: {run.path / SUBMISSION_CSV}")
            break
        except DataError as error:
            lines.append(f"no submission written: {error}")
    return lines


def _sample_submissions(data: str | Path | SampleTable) -> list[Path]:
    """Return the sample submissions in a folder, or in a folder that it only wraps."""
    folder = Path(str(data)).expanduser()
    if isinstance(data, SampleTable) or not folder.is_dir():
        return []
    tables = [*sorted(folder.glob("*.csv")), *sorted(folder.glob("*/*.csv"))]
    return [path for path in tables if SUBMISSION.fullmatch(path.stem)]
