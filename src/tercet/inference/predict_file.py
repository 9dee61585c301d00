"""Prediction with an ONNX file, without PyTorch, optionally under memory and time limits."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tercet.core.calibration import Calibration
from tercet.core.errors import ConfigError, Crashed, DataError, MemoryExhausted, StorageError
from tercet.core.files import require_writable
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.process import ChildProcess, SignalForwarder, signal_name, tercet_command
from tercet.core.resource_limits import available_cores, limit_memory, limit_time
from tercet.core.submissions import SampleSubmission
from tercet.data.inputs import ImageInputs
from tercet.inference.onnx_model import OnnxModel
from tercet.inference.results import MultilabelPredictionResult, PredictionResult


def predict_and_write(
    source: ImageInputs,
    predict: Callable[[], Predictions | MultilabelPredictions],
    *,
    classes: Sequence[str],
    sets: bool,
    calibration: Calibration | None,
    csv: str | None,
    submission: str | None,
    top_k: int,
) -> PredictionResult | MultilabelPredictionResult:
    """Classify images, and write a CSV file or a submission if `csv` is given.

    Args:
        source: The images; unreadable images are recorded there.
        predict: Classifies the source.
        classes: K class names.
        sets: Whether the model is multi-label.
        calibration: Calibration of the model.
        csv: Path of a CSV file for all probabilities.
        submission: Sample submission of a competition; `csv` is then written in its format.
        top_k: Classes listed per image.

    Raises:
        ConfigError: A submission of a multi-label model.
        StorageError: `csv` is one of the input files, or is not writable.
        DataError: There are no readable images, or the sample submission has other images or classes.
    """
    if csv is not None:
        _check_csv(Path(csv), source, submission)
    if submission is not None and sets:
        raise ConfigError("a submission has one class per image, and this model is multi-label")
    sample = None if submission is None else SampleSubmission.read(submission, tuple(classes))
    if sample is not None:
        sample.match([name for name, _ in source.items])  # raises before the images are classified
    try:
        predictions = predict()
    except DataError as error:
        if len(source.bad) < len(source.items):
            raise
        images = ", ".join(map(str, source.bad[:5])) + (", ..." if len(source.bad) > 5 else "")
        raise DataError(f"none of the {len(source.bad)} image(s) can be read: {images}") from error
    if isinstance(predictions, MultilabelPredictions):
        if csv is not None:
            predictions.write_csv(Path(csv))
        return MultilabelPredictionResult(predictions, tuple(source.bad), top_k)
    result = PredictionResult(predictions, tuple(source.bad), top_k, calibration)
    if sample is not None and csv is not None:
        if source.bad:
            raise DataError(f"a submission needs all images, and {len(source.bad)} cannot be read: {source.bad[0]}")
        sample.write(predictions, Path(csv))
    elif csv is not None:
        result.write_csv(Path(csv))
    return result


def predict_with_file(
    file: str | Path,
    paths: Sequence[str | Path],
    *,
    csv: str | None = None,
    submission: str | None = None,
    top_k: int = 5,
    tta: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> PredictionResult | MultilabelPredictionResult:
    """Classify image files and folders with an ONNX file; see `tercet.inference.predict.predict_files`.

    Raises:
        ConfigError: Invalid options; TTA and the device (CPU) of an ONNX file are fixed.
        StorageError: `csv` is one of the input files, or is not writable.
        DataError: There are no readable images, or the sample submission has other images or classes.
        ModelError: The file is not an exported model, or was changed.
    """
    reject_options(tta, device)
    check_output_path(submission, csv)
    model = OnnxModel.load(file, check=False)  # the images are classified at once
    source = ImageInputs(list(paths), skip_bad=True)
    return predict_and_write(
        source,
        lambda: model.predict_inputs(source, batch_size=batch_size),
        classes=model.classes,
        sets=model.sets,
        calibration=calibration_of(model),
        csv=csv,
        submission=submission,
        top_k=top_k,
    )


def _check_csv(csv: Path, source: ImageInputs, submission: str | None) -> None:
    """Raise if the output path would overwrite an input or is not writable."""
    if csv.is_dir():
        raise StorageError(f"{csv} is a folder: give a file with --csv")
    inputs = [image for _, image in source.items if isinstance(image, (str, Path))]
    inputs += [] if submission is None else [submission]
    if csv.exists() and any(Path(path).samefile(csv) for path in inputs if Path(path).exists()):
        raise StorageError(f"{csv} is one of the input files: choose another --csv")
    require_writable(csv.parent, hint="choose another --csv")


def reject_options(tta: object, device: str) -> None:
    """Raise a ConfigError if an option is given that is fixed in an exported file."""
    if tta is not None:
        raise ConfigError("the TTA of an exported file is fixed: export again with --tta, or use the bundle")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"an exported file runs on the CPU: use --device cpu, or the bundle on {device}")


def check_output_path(submission: str | None, csv: str | None) -> None:
    """Raise a ConfigError if a submission has no output path."""
    if submission is not None and csv is None:
        raise ConfigError("--submission needs --csv, the path of the submission")


def calibration_of(model: OnnxModel) -> Calibration | None:
    """Return the calibration of an ONNX file.

    Raises:
        ModelError: The calibration is malformed.
    """
    values = model.metadata.get("calibration")
    return None if values is None else Calibration.from_dict(values)


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
def resource_bounds(*, memory: int | None, seconds: float | None) -> Iterator[None]:
    """Limit the time of the block, and the memory of this process permanently.

    Enter it after the imports, and before a model is loaded.

    Raises:
        ConfigError: The memory limit is below the memory in use.
    """
    if seconds is not None:
        limit_time(seconds)
    if memory is not None:
        limit_memory(memory, threads=available_cores() + _EXTRA_THREADS)
    try:
        yield
    finally:
        if seconds is not None:
            limit_time(None)  # the result may still be written
