"""Prediction with bundles and exported files of any format, optionally under memory and time limits.

With ONNX files, PyTorch is not imported.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercet.config.tta import TTAConfig
from tercet.core.calibration import Calibration, prediction_sets
from tercet.core.errors import ConfigError, Crashed, DataError, MemoryExhausted, StorageError
from tercet.core.files import require_writable
from tercet.core.multilabel import SEPARATOR, MultilabelPredictions
from tercet.core.output import count, printable
from tercet.core.prediction_files import REJECTED, SET, write_csv
from tercet.core.predictions import Predictions
from tercet.core.process import ChildProcess, SignalForwarder, signal_name, tercet_command
from tercet.core.resource_limits import available_cores, limit_memory, limit_time
from tercet.core.submissions import SampleSubmission
from tercet.data.inputs import AnyImages, ImageInputs
from tercet.data.read_ahead import BadImage
from tercet.inference.predictor import Predictor, import_runtime, open_predictor


@dataclass(frozen=True)
class PredictionResult:
    """Predictions for image files."""

    predictions: Predictions | MultilabelPredictions
    """Of the readable files."""
    bad: tuple[BadImage, ...]
    """Unreadable files."""
    top_k: int
    """Classes listed per image; of a multi-label model in addition to the predicted labels."""
    calibration: Calibration | None = None
    """Calibration of the model, possibly with a rejection threshold and prediction sets."""

    @property
    def rejected(self) -> list[bool] | None:
        """Whether each prediction is below the rejection threshold; None without a threshold."""
        reject = self.calibration.reject if self.calibration else None
        return None if reject is None else [bool(value) for value in reject.rejected(self.predictions.values)]

    @property
    def sets(self) -> list[list[str]] | None:
        """The prediction set of each image, most probable class first; None without conformal prediction."""
        rule = self.calibration.conformal if self.calibration else None
        if rule is None:
            return None
        probabilities = self.predictions.values
        chosen = prediction_sets(probabilities, rule.quantile)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            [self.predictions.classes[index] for index in indices if included[index]]
            for indices, included in zip(order.tolist(), chosen, strict=True)
        ]

    def _marks(self) -> Mapping[str, Sequence[Any]]:
        """Return whether each image is rejected, and its prediction set, as far as the model has them."""
        marks: dict[str, Sequence[Any] | None] = {REJECTED: self.rejected, SET: self.sets}
        return {name: values for name, values in marks.items() if values is not None}

    def write_csv(self, path: Path) -> None:
        """Write the predictions, with columns for rejection and prediction sets if the model has them."""
        if isinstance(self.predictions, MultilabelPredictions):
            self.predictions.write_csv(path)
            return
        texts = {REJECTED: lambda value: "yes" if value else "no", SET: SEPARATOR.join}
        write_csv(
            self.predictions, path, marks={name: [*map(texts[name], cells)] for name, cells in self._marks().items()}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        predictions, marks = self.predictions, self._marks()
        names: Sequence[Any] = predictions.predicted_names
        key = "probabilities"
        if isinstance(predictions, MultilabelPredictions):
            names, key = [*map(list, names)], "scores"
        images = [
            {
                "id": name,
                "predicted": names[row],
                **{mark: values[row] for mark, values in marks.items()},
                key: predictions.best(row, self.top_k),
            }
            for row, name in enumerate(predictions.ids)
        ]
        return {"images": images, "unreadable": [{"id": image.id, "reason": image.reason} for image in self.bad]}

    def to_text(self) -> str:
        """Return one line per image: its most probable classes, or its predicted labels with their scores."""
        top_k = self.top_k if isinstance(self.predictions, Predictions) else 0
        lines, rejected, sets = [], self.rejected, self.sets
        for row, name in enumerate(self.predictions.ids):
            scores = self.predictions.best(row, top_k)
            line = "  ".join(f"{printable(label)} {value:.3f}" for label, value in scores.items()) or "no label"
            line += "  REJECTED" if rejected is not None and rejected[row] else ""
            line += "" if sets is None else "  set: " + SEPARATOR.join(map(printable, sets[row]))
            lines.append(f"{printable(name)}: {line}\n")
        lines += [f"{printable(image.location)}: UNREADABLE ({image.reason})\n" for image in self.bad]
        return "".join(lines)


def predict(
    model: str | Path | Predictor,
    images: AnyImages,
    *,
    tta: str | TTAConfig | None = None,
    batch_size: int = 32,
    device: str = "auto",
) -> Predictions | MultilabelPredictions:
    """Classify images; a multi-label model returns `MultilabelPredictions`.

    Args:
        model: Folder of a bundle or run, an ONNX file, a torch program, or a loaded model.
        images: Paths, folders, uint8 arrays (H W, H W 1 or H W 3) or PIL images; one or many, of any sizes.
        tta: Test-time augmentation, such as none or flip (default: that of the model).
        batch_size: Images per forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Invalid options, or options that an exported file does not support.
        ModelError: The path is not a bundle or exported file, or was changed.
        DataError: An image cannot be read.
    """
    predictor = open_predictor(model, tta=tta)
    return predictor.predict(images, batch_size=batch_size, device=predictor.resolve_device(device))


def predict_files(
    model: str | Path | Predictor,
    paths: Sequence[str | Path],
    *,
    csv: str | None = None,
    submission: str | None = None,
    top_k: int = 5,
    tta: str | TTAConfig | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> PredictionResult:
    """Classify image files and folders; unreadable files are listed in the result and skipped.

    Args:
        model: Folder of a bundle or run, an ONNX file, a torch program, or a loaded model.
        paths: Image files, or folders of image files.
        csv: Path of a CSV file for all probabilities.
        submission: Sample submission of a competition; `csv` is then written in its format.
        top_k: Classes listed per image.
        tta: Test-time augmentation (default: that of the model).
        batch_size: Images per forward pass.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: Invalid options, or options that an exported file does not support.
        StorageError: `csv` is one of the input files, or is not writable.
        DataError: There are no readable images, or the sample submission has other images or classes.
        ModelError: The path is not a bundle or exported file, or was changed.
    """
    if submission is not None and csv is None:
        raise ConfigError("--submission needs --csv, the path of the submission")
    predictor = open_predictor(model, tta=tta)
    device = predictor.resolve_device(device)
    source = ImageInputs(list(paths), skip_bad=True)
    if csv is not None:
        _check_csv(Path(csv), source, submission)
    if submission is not None and predictor.multilabel:
        raise ConfigError("a submission has one class per image, and this model is multi-label")
    sample = None if submission is None else SampleSubmission.read(submission, predictor.classes)
    if sample is not None:
        sample.match([name for name, _ in source.items])  # raises before the images are classified
    try:
        predictions = predictor.predict(source, batch_size=batch_size, device=device)
    except DataError as error:
        if len(source.bad) < len(source.items):
            raise
        images = ", ".join(map(str, source.bad[:5])) + (", ..." if len(source.bad) > 5 else "")
        raise DataError(f"none of the {count(len(source.bad), 'image')} can be read: {images}") from error
    result = PredictionResult(predictions, tuple(source.bad), top_k, predictor.calibration)
    if csv is None:
        return result
    if sample is None or not isinstance(predictions, Predictions):
        result.write_csv(Path(csv))
    elif source.bad:
        raise DataError(f"a submission needs all images, and {len(source.bad)} cannot be read: {source.bad[0]}")
    else:
        sample.write(predictions, Path(csv))
    return result


def _check_csv(csv: Path, source: ImageInputs, submission: str | None) -> None:
    """Raise if the output path would overwrite an input or is not writable."""
    if csv.is_dir():
        raise StorageError(f"{csv} is a folder: give a file with --csv")
    inputs = [image for _, image in source.items if isinstance(image, (str, Path))]
    inputs += [] if submission is None else [submission]
    if csv.exists() and any(Path(path).samefile(csv) for path in inputs if Path(path).exists()):
        raise StorageError(f"{csv} is one of the input files: choose another --csv")
    require_writable(csv.parent, hint="choose another --csv")


_EXTRA_THREADS = 2  # of the process, in addition to those of onnxruntime


def predict_in_child(arguments: Sequence[str], *, memory: int | None, seconds: float | None) -> int:
    """Run `tercet predict` in a child process that sets its own `resource_bounds`, and return its exit code.

    Args:
        arguments: Command-line arguments after `predict`.
        memory: Memory limit of the child, in MiB.
        seconds: Time limit of the child.

    Raises:
        MemoryExhausted: A signal ended the child, which had a memory limit: native code may abort if memory is short.
        Crashed: The child exceeded the time limit, or a signal ended it without a memory limit.
        Interrupted: This process was stopped by a signal.
    """
    with SignalForwarder() as forwarder:
        code = forwarder.wait(ChildProcess(tercet_command("predict", *arguments)))
    if code >= 0:
        return code
    if seconds is not None and code == -signal.SIGALRM:
        raise Crashed(f"predicting took longer than the {seconds:g} s of --max-seconds", signal.SIGALRM)
    message = f"the prediction process was ended by {signal_name(-code)}"
    if memory is not None:
        raise MemoryExhausted(f"{message}, probably out of memory with --max-memory {memory} (MiB)")
    raise Crashed(message, -code)


@contextmanager
def resource_bounds(model: str | Path, *, memory: int | None, seconds: float | None) -> Iterator[None]:
    """Limit the time of the block, and the memory of this process permanently, before a model is loaded.

    The library that runs the model is imported before the limits are set.

    Raises:
        ConfigError: The memory limit is below the memory in use.
    """
    import_runtime(model)
    if seconds is not None:
        limit_time(seconds)
    if memory is not None:
        limit_memory(memory, threads=available_cores() + _EXTRA_THREADS)
    try:
        yield
    finally:
        if seconds is not None:
            limit_time(None)  # the result may still be written
