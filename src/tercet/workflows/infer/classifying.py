"""What the verb predict does around whoever answers, a bundle or an exported file; light, as files answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tercet.deploy.exported import ExportedModel
from tercet.deploy.loose import LoosePictures
from tercet.ground.errors import ConfigError, DataError, StorageError
from tercet.ground.files import require_writable
from tercet.records.calibration import Calibration
from tercet.records.label_sets import SetPredictions
from tercet.records.predictions import Predictions
from tercet.records.submissions import Sample
from tercet.workflows.infer.classified import Classified, ClassifiedSets

Answer = Callable[[], Predictions | SetPredictions]


def classify(
    source: LoosePictures,
    answer: Answer,
    *,
    classes: Sequence[str],
    sets: bool,
    calibration: Calibration | None,
    csv: str | None,
    submission: str | None,
    top_k: int,
) -> Classified | ClassifiedSets:
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
    sample = None if submission is None else Sample.read(submission, tuple(classes))
    if sample is not None:
        sample.match([name for name, _ in source.items])  # before the work is done
    try:
        predictions = answer()
    except DataError as error:
        if len(source.bad) < len(source.items):
            raise
        named = ", ".join(map(str, source.bad[:5])) + (", ..." if len(source.bad) > 5 else "")
        raise DataError(f"none of the {len(source.bad)} image(s) can be read: {named}") from error
    if isinstance(predictions, SetPredictions):
        if csv is not None:
            predictions.write_csv(Path(csv))
        return ClassifiedSets(predictions, tuple(source.bad), top_k)
    classified = Classified(predictions, tuple(source.bad), top_k, calibration)
    if sample is not None and csv is not None:
        if source.bad:
            raise DataError(f"a submission needs every image, and {len(source.bad)} cannot be read: {source.bad[0]}")
        sample.write(predictions, Path(csv))
    elif csv is not None:
        classified.write_csv(Path(csv))
    return classified


def classify_with_file(
    file: str | Path,
    paths: Sequence[str | Path],
    *,
    csv: str | None = None,
    submission: str | None = None,
    top_k: int = 5,
    tta: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> Classified | ClassifiedSets:
    """Classify files and folders of images with an exported file; see `tercet.workflows.infer.run.predict_files`.

    Raises:
        ConfigError: Options that cannot be: a file computes on the CPU and shows the views it was exported with.
        DataError: There is no image, or none could be read; a sample file that names other images or classes.
        ModelError: It is no exported file, or was changed.
    """
    refuse_options(tta, device)
    require_target(submission, csv)
    model = ExportedModel.load(file, check=False)  # the images themselves are the check
    source = LoosePictures(list(paths), skip_bad=True)
    return classify(
        source,
        lambda: model.answer(source, batch_size=batch_size),
        classes=model.classes,
        sets=model.sets,
        calibration=calibration_of(model),
        csv=csv,
        submission=submission,
        top_k=top_k,
    )


def _require_place(csv: Path, source: LoosePictures, submission: str | None) -> None:
    """Refuse a place for answers that would lose what was given, or cannot be written."""
    if csv.is_dir():
        raise StorageError(f"{csv} is a folder: name a file in it with --csv")
    given = [image for _, image in source.items if isinstance(image, (str, Path))]
    given += [] if submission is None else [submission]
    if csv.exists() and any(Path(one).samefile(csv) for one in given if Path(one).exists()):
        raise StorageError(f"{csv} is one of the files that are read: write the answers to another --csv")
    require_writable(csv.parent, way="choose another --csv")


def refuse_options(tta: object, device: str) -> None:
    """Refuse what is fixed in an exported file.

    Raises:
        ConfigError: Views or a device were asked for.
    """
    if tta is not None:
        raise ConfigError("an exported file has its views in it: export the bundle with --tta, or predict with it")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"an exported file computes on the CPU: use --device cpu, or the bundle itself on {device}")


def require_target(submission: str | None, csv: str | None) -> None:
    """Refuse a submission without a place for it.

    Raises:
        ConfigError: There is none.
    """
    if submission is not None and csv is None:
        raise ConfigError("--submission needs --csv: where to write the submission")


def calibration_of(model: ExportedModel) -> Calibration | None:
    """Return what a file tells of its calibration.

    Raises:
        ModelError: It is damaged.
    """
    told = model.metadata.get("calibration")
    return None if told is None else Calibration.from_dict(told)
