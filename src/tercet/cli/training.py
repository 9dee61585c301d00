"""Commands that train and combine networks, and those that list runs, networks and data sets."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tercet
from tercet.cli.command import command, console
from tercet.config.commands import ENSEMBLE, TRAIN, ResumeConfig
from tercet.config.experiments import COMPARE, CROSSVAL, REPRODUCE, TUNE, ReproduceConfig, Sort, TuneConfig
from tercet.config.fields import Config, bounded
from tercet.config.model import ModelConfig
from tercet.config.parser import ParsedArguments
from tercet.config.run import FusionConfig
from tercet.core.errors import Problem
from tercet.core.output import CommandResult

TrainingData = Annotated[
    str | None, "image folder with one sub-folder per class, table, archive (zip, tar), or data set name"
]  # omitted with --resume


@dataclass(frozen=True)
class RunsConfig:
    """Order of the table."""

    sort: Sort = "date"
    """Column to sort by: scores and dates in descending order, others ascending."""


@dataclass(frozen=True)
class DemoConfig:
    """Output of the demonstration."""

    output: str | None = None
    """Run folder (default: runs/digits-N)."""


@dataclass(frozen=True)
class NetworkConfig(Config):
    """Input and output shapes for which the network is built."""

    classes: int = bounded(1000, above=0)
    """Number of classes."""
    image_size: tuple[int, ...] = bounded((224,), above=0)
    """Image height and width, or one number for squares."""
    channels: int = bounded(3, above=0)
    """Image channels."""
    members: int = bounded(3, above=0)
    """e2e: number of ensemble members."""

    def _rules(self) -> Iterable[Problem]:
        if len(self.image_size) > 2:
            yield Problem("image_size takes one number, or height and width", "image_size")


def _run_result(run: Any) -> CommandResult:
    """Format the result of a command that creates a run folder with a bundle."""
    return CommandResult(
        f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics)
    )


def _folder_result(run: Any) -> CommandResult:
    """Format the result of a command that creates a folder of runs."""
    return CommandResult(f"{run.report}\nfolder: {run.path}\n", dict(run.metrics), run.exit_code)


@command("Training and inference", TRAIN)
def train(data: TrainingData = None, *, parsed: ParsedArguments) -> Any:
    """Train networks on a folder of images and ensemble them.

    By default from cheap to expensive: a linear classifier on features of a frozen network, a fine-tuned network, an
    ensemble. Writes a run folder with all scores and, in RUN/bundle, the best model so far; Ctrl-C keeps it. Presets:
    fast (the first), good (the next while it pays), best (all), paper (the published training). --epochs, --lr or
    --stages replace the preset.

    Examples:
        photos/
        photos/ --preset best --time-budget 1h
        photos/ --members resnet18,mobilenetv2_100 --epochs 10 --lr 1e-4
        --resume runs/photos-1
    """
    from tercet.experiments.train import run_training

    return _run_result(run_training(data, parsed, resume=parsed.of(ResumeConfig).resume, console=console()))


@command("Training and inference", TRAIN)
def probe(data: TrainingData = None, *, parsed: ParsedArguments) -> Any:
    """Fit a linear classifier on features of a frozen network.

    It takes about a minute. The features are computed once and stored for all commands. Writes a run folder like
    that of `train`. Small images, and photos without weights at hand, are classified by their pixels: a baseline.

    Examples:
        photos/
        photos/ --members resnet18,convnext_tiny
        photos/ --weights encoder.safetensors
    """
    from tercet.experiments.train import run_probe

    return _run_result(run_probe(data, parsed, resume=parsed.of(ResumeConfig).resume, console=console()))


@command("Training and inference", ENSEMBLE)
def ensemble(inputs: Annotated[tuple[str, ...], "run folders, or prediction files"], *, parsed: ParsedArguments) -> Any:
    """Combine trained runs or prediction files into an ensemble.

    Runs must share data and splits; the result is a run folder with a bundle. Prediction files of any toolkit are .npy
    (N x K), .npz, or CSV with ids; scores and fitted weights need labels.

    Examples:
        runs/photos-1 runs/photos-2 --ensemble-methods average
        a.npy b.npy c.npy --labels truth.csv
    """
    from tercet.experiments.ensemble_files import are_files, combine_files

    if are_files(inputs):  # needs no PyTorch
        return combine_files(inputs, parsed)
    from tercet.experiments.ensemble import run_ensemble

    run = run_ensemble(inputs, parsed, console=console())
    return CommandResult(f"{run.report}\nbundle: {run.path / 'bundle'}\n", dict(run.metrics))


@command("Experiments", CROSSVAL)
def crossval(data: TrainingData = None, *, parsed: ParsedArguments) -> Any:
    """Train and evaluate once per fold.

    Each fold is a run of `train`; the output also contains the pooled predictions of all held-out images, and one
    bundle that averages the fold models. Without --data.test-fraction there is no test split besides the folds.

    Examples:
        photos/ --folds 5 --members resnet18 --epochs 10 --lr 1e-4
        signs.csv --leave-one-group-out --data.group-column subject
    """
    from tercet.experiments.crossval import run_crossval

    return _run_result(run_crossval(data, parsed, resume=parsed.of(ResumeConfig).resume, console=console()))


@command("Experiments", COMPARE)
def compare(data: TrainingData = None, *, parsed: ParsedArguments) -> Any:
    """Train a grid of networks with several seeds, and compare them.

    All use the same data, splits and number of optimizer steps. Reports scores, significance, cost, and errors per
    image.

    Examples:
        photos/ --backbones resnet18 --recurrent none,lstm --scans rows
    """
    from tercet.experiments.compare import run_comparison

    return _folder_result(run_comparison(data, parsed, resume=parsed.of(ResumeConfig).resume, console=console()))


@command("Experiments", TUNE)
def tune(data: TrainingData = None, *, parsed: ParsedArguments) -> Any:
    """Tune the hyperparameters of one network.

    Trials are sampled from a search space and scored on validation. Writes a table of all trials and the best
    configuration, FOLDER/best.yaml, for train --config.

    Examples:
        photos/ --space space.yaml --members row-lstm --trials 30
        --resume runs/photos-tune-1 --trials 60
    """
    from tercet.experiments.tune import run_tuning

    space, resume = parsed.of(TuneConfig).space, parsed.of(ResumeConfig).resume
    tuning = run_tuning(data, parsed, space=space, resume=resume, console=console())
    return CommandResult(f"{tuning.report}\nfolder: {tuning.path}\nbest:   {tuning.best}\n", dict(tuning.metrics))


@command("Experiments", REPRODUCE)
def reproduce(
    recipe: Annotated[str | None, "recipe name or YAML file"] = None,
    data: Annotated[str | None, "replacement images: folder, table, zip, or data set name"] = None,
    *,
    parsed: ParsedArguments,
) -> Any:
    """Reproduce a published experiment from a recipe.

    Reports published and measured numbers side by side; without a name, lists the recipes. The output folder contains
    ordinary runs; --resume runs the missing parts.

    Examples:
        rows-vs-cnn --data-dir ~/data
        leaves photos/ --replace mobilenetv2_100=resnet18
        fingerspelling --data-dir ~/data --scale paper
        --resume runs/fingerspelling-1
    """
    from tercet.experiments.reproduce import list_recipes, run_reproduction, show_recipe

    resume = parsed.of(ResumeConfig).resume
    if recipe is None and resume is None:
        return list_recipes()
    if recipe is not None and parsed.of(ReproduceConfig).show:
        return show_recipe(recipe)
    return _folder_result(run_reproduction(recipe, data, parsed, resume=resume, console=console()))


@command("Experiments")
def runs(folder: Annotated[str, "folder to search (default: runs)"] = "runs", *, config: RunsConfig) -> Any:
    """List the runs in a folder with their scores.

    Examples:
        runs --sort test
    """
    return tercet.runs(folder, sort=config.sort)


@command("Models and data")
def models(
    name: Annotated[str | None, "network, part of a name, or e2e for the fusion head"] = None,
    *,
    config: NetworkConfig,
    model: ModelConfig,
    fusion: FusionConfig,
) -> Any:
    """List the networks, or describe the layers and cost of one.

    FLOPs are per image; a multiply-add counts as two.

    Examples:
        efficientnet
        resnet18 --classes 10 --recurrent lstm --scan rows
    """
    if name is None:
        return tercet.list_models()
    return tercet.describe_model(
        name,
        num_classes=config.classes,
        config=model,
        channels=config.channels,
        image_size=(config.image_size[0], config.image_size[-1]),
        num_members=config.members,
        fusion=fusion,
    )


@command("Models and data")
def datasets(name: Annotated[str | None, "data set"] = None) -> Any:
    """List the named data sets and their variants, or describe one.

    Reports origin, licence, files, sizes, checksums, and how to provide the files without a download.
    """
    return tercet.list_datasets() if name is None else tercet.describe_dataset(name)


@command("Models and data")
def demo(*, config: DemoConfig) -> Any:
    """Train from a probe to an ensemble on scikit-learn's digits. Two minutes, no download."""
    run = tercet.demo(output=config.output, console=console())
    result = _run_result(run)
    return CommandResult(f"{result.text}{next_steps(run.path)}", result.document)


def next_steps(run: Path) -> str:
    """Return what to type after the demo, for its result and for photos."""
    path = shlex.quote(str(run))
    return (
        f"\nnext, its result: tercet serve {path}, tercet predict {path} IMAGE..., tercet export {path} model.onnx\n"
        "your own photos, one sub-folder per class: tercet probe photos/ (a minute), tercet train photos/\n"
    )
