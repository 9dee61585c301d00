"""Commands that use trained models, analyse data, and report on runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import tercet
from tercet.cli.command import command, console, phase
from tercet.config.commands import AUDIT, EMBED, SEARCH, ExplainConfig
from tercet.config.fields import Config, bounded
from tercet.config.parser import ParsedArguments
from tercet.config.run import DataConfig, parse_value_range
from tercet.config.tta import TTAConfig
from tercet.core.errors import Problem, problems_of
from tercet.core.output import CommandResult
from tercet.core.process import ParentLink
from tercet.core.resource_limits import MIN_MEMORY
from tercet.core.submission_labels import Numbering

Bundle = Annotated[str, "bundle or run folder, or an exported file"]
Images = Annotated[tuple[str, ...], "image files or folders"]
LabelledData = Annotated[str, "image folder with one sub-folder per class, table, archive (zip, tar), or data set name"]


@dataclass(frozen=True)
class DeviceConfig(Config):
    """Device and batch size."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    batch_size: int = bounded(64, above=0)
    """Images per forward pass."""


@dataclass(frozen=True)
class TTAOptions(Config):
    """Test-time augmentation."""

    tta: str | None = None
    """Test-time augmentation: none, flip, vflip, shifts:2, crops:3@540, joined by + (default: that of the bundle)."""

    def _rules(self) -> Iterable[Problem]:
        return problems_of(lambda: TTAConfig.parse(self.tta or "none"), "tta")


@dataclass(frozen=True)
class EvaluateConfig:
    """Images to evaluate."""

    include_seen: bool = False
    """Also score images that were used in training; the scores are then optimistic."""


@dataclass(frozen=True)
class PredictConfig(Config):
    """Output of the predictions."""

    csv: str | None = None
    """Write the classes and probabilities of all images to this CSV file."""
    submission: str | None = None
    """Sample submission of a competition; --csv then has its columns and row order, and only its images."""
    submission_numbers: Numbering | None = None
    """Numbers as labels of the sample count the classes from 0 or from 1, or end their names (default: as it shows)."""
    submission_class: str | None = None
    """Class whose probability the only column of the sample has (default: the class with the name of the column)."""
    submission_files: str | None = None
    """Table, or JSON file with images, with the id and the file name of each image, if ids are not file names."""
    top_k: int = bounded(5, above=0)
    """Number of classes to show per image."""
    value_range: str | None = None
    """Values that become black and white in grey images of more than 8 bits: full, or MIN,MAX (default: those of the
    training)."""

    def _rules(self) -> Iterable[Problem]:
        if self.value_range is not None:
            yield from problems_of(lambda: parse_value_range(self.value_range or ""), "value_range")
        if self.submission is not None and self.csv is None:
            yield Problem("submission needs csv, the file to write", "submission", "csv")
        for name in ("submission_numbers", "submission_class", "submission_files"):
            if getattr(self, name) is not None and self.submission is None:
                yield Problem(f"{name} needs submission, the sample", name, "submission")


@dataclass(frozen=True)
class LimitsConfig(Config):
    """Limits for untrusted models; with a limit, prediction runs in a child process."""

    max_memory: int | None = bounded(None, least=MIN_MEMORY)
    """Address-space limit in MiB (default: no limit)."""
    max_seconds: float | None = bounded(None, above=0, below=1e9)
    """Time limit in seconds after the libraries are loaded (default: no limit)."""


@dataclass(frozen=True)
class ReportConfig:
    """Contents and location of the page."""

    output: str | None = None
    """HTML file (default: RUN/report.html; report.html in the current folder for several runs)."""
    leaderboard: str | None = None
    """CSV file with published scores to plot for comparison; columns name and score."""
    title: str | None = None
    """Page title (default: run folder and data)."""


@command("Training and inference")
def predict(
    bundle: Bundle,
    images: Images,
    *,
    config: PredictConfig,
    tta: TTAOptions,
    device: DeviceConfig,
    limits: LimitsConfig,
    parsed: ParsedArguments,
) -> Any:
    """Classify images with a bundle or an exported file.

    Examples:
        runs/photos-1 new-photos/ --csv predictions.csv
        runs/photos-1 test/ --submission sample.csv --csv out.csv
        photos.onnx new-photo.jpg
    """
    from tercet.inference.predict import predict_files, predict_in_child, resource_bounds

    memory, seconds = limits.max_memory, limits.max_seconds
    if limits != LimitsConfig() and ParentLink.from_environment() is None:
        arguments = [*parsed.to_arguments(), "--", bundle, *images]
        return CommandResult.from_exit_code(predict_in_child(arguments, memory=memory, seconds=seconds))
    with resource_bounds(bundle, memory=memory, seconds=seconds):
        result = predict_files(bundle, images, **vars(config), **vars(tta), **vars(device))
    return CommandResult(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)


@command("Training and inference")
def evaluate(
    bundle: Bundle,
    data: LabelledData,
    *,
    config: EvaluateConfig,
    tta: TTAOptions,
    device: DeviceConfig,
    reading: DataConfig,
) -> Any:
    """Evaluate a bundle or an exported file on labelled images.

    Classes are matched by name. Uses the test split of the data if present, else all images. Images that were used in
    training, by their files or pixels, are left out.

    Examples:
        runs/photos-1 another-test-set/
        runs/photos-1 photos-and-more/ --include-seen
    """
    from tercet.core.progress import print_warning

    screen = console()
    with phase(f"evaluating {bundle}", screen):
        result = tercet.evaluate(bundle, data, config=reading, **vars(config), **vars(tta), **vars(device))
    if result.warning:
        print_warning(screen, result.warning)
    return result


@command("Analysis", AUDIT)
def audit(data: LabelledData, *, parsed: ParsedArguments) -> Any:
    """Check data for bad images, duplicates, leakage and wrong labels.

    Reports unreadable images, exact and near duplicates within and across splits, groups in several splits, small and
    missing classes and, with --run, likely label errors. With --output, writes an HTML page.

    Examples:
        photos/ --output audit/
        photos/ --fail-on leakage,unreadable
    """
    from tercet.audit.run import run_audit

    screen = console()
    with phase("checking the data", screen):
        return run_audit(data, parsed, console=screen)


@command("Analysis", EMBED)
def embed(
    data: Annotated[str, "folder of images, table, archive, or data set name"],
    file: Annotated[str, "features to write: .npz, .parquet or .csv"],
    *,
    parsed: ParsedArguments,
) -> Any:
    """Write the features of images to a file.

    They are those of a frozen network or of a trained model. The file has ids, labels, paths and features. Features are
    computed once, and stored for all commands.

    Examples:
        photos/ features.npz
        photos/ features.csv --network resnet18
        photos/ features.npz --model runs/photos-1
    """
    from tercet.experiments.embed import run_embed

    return run_embed(data, parsed, console=console(), file=file)


@command("Analysis", SEARCH)
def search(
    data: Annotated[str, "folder of images, table, archive, or data set name"],
    images: Images,
    *,
    parsed: ParsedArguments,
) -> Any:
    """Find the images of a data set that are most similar.

    Lists path, label and cosine similarity of the features. An image of the data is not among its own results.

    Examples:
        photos/ new-photo.jpg
        photos/ photos/cat/12.jpg --top 5 --model runs/photos-1
    """
    from tercet.experiments.embed import run_search

    return run_search(data, images, parsed, console=console())


@command("Analysis")
def report(runs: Annotated[tuple[str, ...], "run folders"], *, config: ReportConfig) -> Any:
    """Write one self-contained HTML page about runs, with figures.

    Accepts the output folder of any training command. Figures are also written as PNG and SVG.

    Examples:
        runs/photos-1
        runs/photos-1 runs/photos-2 --output both.html
        runs/photos-1 --leaderboard others.csv
    """
    with phase("writing the report"):
        return tercet.write_report(runs, **vars(config))


@command("Analysis")
def explain(bundle: Annotated[str, "bundle or run folder"], images: Images = (), *, config: ExplainConfig) -> Any:
    """Explain a bundle's predictions.

    Class-activation maps for convolutional networks, attention rollout for vision transformers, step attributions for
    recurrent scans; one row per member, and the ensemble prediction. Writes PNG and SVG files and explain.json.

    Examples:
        runs/photos-1 cat.jpg dog.jpg
        runs/photos-1 cat.jpg --class dog --member resnet18
        runs/photos-1 cat.jpg --layer layer3 --features conv1,layer1
        runs/photos-1 --layers
    """
    from tercet.explain.layers import list_layers, require_layers_alone

    if config.layers:
        require_layers_alone(config, images)
        return list_layers(bundle, member=config.member)
    options = {key: value for key, value in vars(config).items() if key != "layers"}
    with phase("explaining the predictions"):
        result = tercet.explain_images(bundle, images, **options)
    return CommandResult(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)
