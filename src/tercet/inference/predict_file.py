"""Predict with an exported file, without PyTorch, under memory and time limits."""

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

FileOutput = Callable[[], Predictions | MultilabelPredictions]


def predict_rows_of_file(
    source: ImageInputs,
    answer: FileOutput,
    *,
    classes: Sequence[str],
    sets: bool,
    calibration: Calibration | None,
    csv: str | None,
    submission: str | None,
    top_k: int,
) -> PredictionResult | MultilabelPredictionResult:
    """Classify images, and write what was asked for.

    Args:
        source: The images; those that cannot be read are left out and listed there.
        answer: Classifies the source.
        classes: K class names.
        sets: Whether sets of labels are answered.
        calibration: Of the answers.
        csv: Where to write a CSV file with all probabilities.
        submission: A competition's sample file; `csv` then is written in its form, and names every image of it once.
        top_k: Classes told for each image.

    Raises:
        ConfigError: Options that cannot be.
        StorageError: The CSV file would replace an image or the sample file, or cannot be written.
        DataError: No image could be read; a sample file that names other images or classes.
    """
    if csv is not None:
        _require_place(Path(csv), source, submission)
    if submission is not None and sets:
        raise ConfigError("a submission names one class an image, and this bundle answers with sets of labels")
    sample = None if submission is None else SampleSubmission.read(submission, tuple(classes))
    if sample is not None:
        sample.match([name for name, _ in source.items])  # before the work is done
    try:
        predictions = answer()
    except DataError as error:
        if len(source.bad) < len(source.items):
            raise
        named = ", ".join(map(str, source.bad[:5])) + (", ..." if len(source.bad) > 5 else "")
        raise DataError(f"none of the {len(source.bad)} image(s) can be read: {named}") from error
    if isinstance(predictions, MultilabelPredictions):
        if csv is not None:
            predictions.write_csv(Path(csv))
        return MultilabelPredictionResult(predictions, tuple(source.bad), top_k)
    classified = PredictionResult(predictions, tuple(source.bad), top_k, calibration)
    if sample is not None and csv is not None:
        if source.bad:
            raise DataError(f"a submission needs every image, and {len(source.bad)} cannot be read: {source.bad[0]}")
        sample.write(predictions, Path(csv))
    elif csv is not None:
        classified.write_csv(Path(csv))
    return classified


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
    """Classify files and folders of images with an exported file; see `tercet.inference.predict.predict_files`.

    Raises:
        ConfigError: Options that cannot be: a file computes on the CPU and shows the views it was exported with.
        DataError: There is no image, or none could be read; a sample file that names other images or classes.
        ModelError: It is no exported file, or was changed.
    """
    reject_options(tta, device)
    check_output_path(submission, csv)
    model = OnnxModel.load(file, check=False)  # the images themselves are the check
    source = ImageInputs(list(paths), skip_bad=True)
    return predict_rows_of_file(
        source,
        lambda: model.predict_inputs(source, batch_size=batch_size),
        classes=model.classes,
        sets=model.sets,
        calibration=calibration_of(model),
        csv=csv,
        submission=submission,
        top_k=top_k,
    )


def _require_place(csv: Path, source: ImageInputs, submission: str | None) -> None:
    """Refuse a place for answers that would lose what was given, or cannot be written."""
    if csv.is_dir():
        raise StorageError(f"{csv} is a folder: name a file in it with --csv")
    given = [image for _, image in source.items if isinstance(image, (str, Path))]
    given += [] if submission is None else [submission]
    if csv.exists() and any(Path(one).samefile(csv) for one in given if Path(one).exists()):
        raise StorageError(f"{csv} is one of the files that are read: write the answers to another --csv")
    require_writable(csv.parent, way="choose another --csv")


def reject_options(tta: object, device: str) -> None:
    """Refuse what is fixed in an exported file.

    Raises:
        ConfigError: Views or a device were asked for.
    """
    if tta is not None:
        raise ConfigError("an exported file has its views in it: export the bundle with --tta, or predict with it")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"an exported file computes on the CPU: use --device cpu, or the bundle itself on {device}")


def check_output_path(submission: str | None, csv: str | None) -> None:
    """Refuse a submission without a place for it.

    Raises:
        ConfigError: There is none.
    """
    if submission is not None and csv is None:
        raise ConfigError("--submission needs --csv: where to write the submission")


def calibration_of(model: OnnxModel) -> Calibration | None:
    """Return what a file tells of its calibration.

    Raises:
        ModelError: It is damaged.
    """
    told = model.metadata.get("calibration")
    return None if told is None else Calibration.from_dict(told)


_OWN_THREADS = 2


def predict_in_child(words: Sequence[str], *, memory: int | None, seconds: float | None) -> int:
    """Let another process predict, which works `resource_bounds`, and return its exit code.

    Args:
        words: The command line after `predict`.
        memory: The limit that it sets itself, in MiB.
        seconds: The time that it gives itself.

    Raises:
        MemoryExhausted: It died within a limit of memory: native code does not always find words for that.
        Crashed: It took too long, or died without such a limit.
        Interrupted: A signal ended it.
    """
    with SignalForwarder() as relay:
        code = relay.wait(ChildProcess(tercet_command("predict", *words)))
    if code >= 0:
        return code
    if code == -signal.SIGALRM and seconds is not None:
        raise Crashed(f"predicting took longer than the {seconds:g} s of --max-seconds", signal.SIGALRM)
    told = f"the process that predicted was ended by {signal_name(-code)}"
    if memory is not None:
        raise MemoryExhausted(f"{told}, most likely for want of memory: it was given {memory} MiB (--max-memory)")
    raise Crashed(told, -code)


@contextmanager
def resource_bounds(*, memory: int | None, seconds: float | None) -> Iterator[None]:
    """Limit this process: its time within the block, its memory for good. By then all is imported and nothing loaded.

    Raises:
        ConfigError: So little memory is too little.
    """
    if seconds is not None:
        limit_time(seconds)
    if memory is not None:
        limit_memory(memory, threads=available_cores() + _OWN_THREADS)
    try:
        yield
    finally:
        if seconds is not None:
            limit_time(None)  # an answer that is there is told
