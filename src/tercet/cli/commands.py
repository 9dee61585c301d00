"""The command table: options and implementation of every command, imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from tercet.cli.deployment import DEPLOYMENT_COMMANDS
from tercet.config import analysis, experiments
from tercet.config import commands as options
from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig, FusionConfig
from tercet.core.output import CommandResult, SafeStream
from tercet.core.process import ParentLink


def _console() -> Any:
    from rich.console import Console

    return Console(file=cast("IO[str]", SafeStream(sys.stderr)))


def _run_result(run: Any) -> CommandResult:
    """Format the result of a command that creates a run folder with a bundle."""
    return CommandResult(
        f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics)
    )


def _train(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.train import run_training

    resume = parsed.of(options.ResumeConfig).resume
    return _run_result(run_training(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _crossval(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.crossval import run_crossval

    resume = parsed.of(options.ResumeConfig).resume
    return _run_result(run_crossval(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _tune(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.tune import run_tuning

    resume, space = parsed.of(options.ResumeConfig).resume, parsed.of(experiments.TuneConfig).space
    tuning = run_tuning(parsed.positional["data"], parsed, space=space, resume=resume, console=_console())
    return CommandResult(f"{tuning.report}\nfolder: {tuning.path}\nbest:   {tuning.best}\n", dict(tuning.metrics))


def _ensemble(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.ensemble_files import CombinedPredictions, are_files, combine_files, trains_head

    inputs = parsed.positional["inputs"]
    result: Any
    if are_files(inputs) and not trains_head(parsed):  # needs no PyTorch
        result = combine_files(inputs, parsed)
    else:
        from tercet.experiments.ensemble import combine_inputs

        result = combine_inputs(inputs, parsed, console=_console())
    if isinstance(result, CombinedPredictions):
        return CommandResult(result.to_text(), result.to_dict())
    return CommandResult(f"{result.report}\nbundle: {result.path / 'bundle'}\n", dict(result.metrics))


def _evaluate(parsed: ParsedArguments) -> CommandResult:
    from tercet.inference.evaluate import evaluate

    device = parsed.of(options.DeviceConfig)
    evaluation = evaluate(
        parsed.positional["bundle"],
        parsed.positional["data"],
        config=parsed.of(DataConfig),
        tta=parsed.of(options.TTAOptions).tta,
        include_seen=parsed.of(options.EvaluateConfig).include_seen,
        batch_size=device.batch_size,
        device=device.device,
    )
    return CommandResult(evaluation.to_text(), evaluation.to_dict())


def _predict(parsed: ParsedArguments) -> CommandResult:
    from tercet.inference.predict import predict_files, predict_in_child, resource_bounds

    bundle, limits = parsed.positional["bundle"], parsed.of(options.LimitsConfig)
    memory, seconds = limits.max_memory, limits.max_seconds
    if limits.any and ParentLink.from_environment() is None:
        arguments = [*parsed.to_arguments(), "--", bundle, *parsed.positional["images"]]
        return CommandResult.from_exit_code(predict_in_child(arguments, memory=memory, seconds=seconds))
    config, device = parsed.of(options.PredictConfig), parsed.of(options.DeviceConfig)
    with resource_bounds(bundle, memory=memory, seconds=seconds):
        result = predict_files(
            bundle,
            parsed.positional["images"],
            csv=config.csv,
            submission=config.submission,
            top_k=config.top_k,
            tta=parsed.of(options.TTAOptions).tta,
            batch_size=device.batch_size,
            device=device.device,
        )
    return CommandResult(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)


def _compare(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.compare import run_comparison

    resume = parsed.of(options.ResumeConfig).resume
    comparison = run_comparison(parsed.positional["data"], parsed, resume=resume, console=_console())
    return CommandResult(
        f"{comparison.report}\nfolder: {comparison.path}\n", dict(comparison.metrics), comparison.exit_code
    )


def _runs(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.runs import runs

    table = runs(parsed.positional["folder"] or "runs", sort=parsed.of(experiments.RunsConfig).sort)
    return CommandResult(table.to_text(), table.to_dict())


def _report(parsed: ParsedArguments) -> CommandResult:
    from tercet.report.run import write_report

    config = parsed.of(analysis.ReportConfig)
    result = write_report(
        parsed.positional["runs"], output=config.output, leaderboard=config.leaderboard, title=config.title
    )
    return CommandResult(result.to_text(), result.to_dict())


def _models(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.catalog import describe_model, list_models

    name, network = parsed.positional["name"], parsed.of(options.NetworkConfig)
    if name is None:
        return list_models()
    return describe_model(
        name,
        num_classes=network.classes,
        config=parsed.of(ModelConfig),
        channels=network.channels,
        image_size=(network.image_size[0], network.image_size[-1]),
        num_members=network.members,
        fusion=parsed.of(FusionConfig),
    )


def _datasets(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.catalog import describe_dataset, list_datasets

    name = parsed.positional["name"]
    return list_datasets() if name is None else describe_dataset(name)


def _audit(parsed: ParsedArguments) -> CommandResult:
    from tercet.audit.run import run_audit

    result = run_audit(parsed.positional["data"], parsed, console=_console())
    return CommandResult(result.to_text(), result.to_dict(), result.exit_code)


def _demo(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.train import demo

    return _run_result(demo(output=parsed.of(options.DemoConfig).output, console=_console()))


def _explain(parsed: ParsedArguments) -> CommandResult:
    from tercet.explain.explain import explain_images
    from tercet.explain.layers import list_layers, require_layers_alone

    config, images = parsed.of(analysis.ExplainConfig), parsed.positional["images"]
    if config.layers:
        require_layers_alone(config, images)
        return list_layers(parsed.positional["bundle"], member=config.member)
    result = explain_images(
        parsed.positional["bundle"],
        images,
        output=config.output,
        layer=config.layer,
        filters=config.filters,
        features=config.features,
        member=config.member,
        class_name=config.class_name,
        device=config.device,
    )
    return CommandResult(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)


def _reproduce(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.reproduce import list_recipes, run_reproduction, show_recipe

    recipe, resume = parsed.positional["recipe"], parsed.of(options.ResumeConfig).resume
    if recipe is None and resume is None:
        return list_recipes()
    if parsed.of(experiments.ReproduceConfig).show:
        return show_recipe(recipe)
    result = run_reproduction(recipe, parsed.positional["data"], parsed, resume=resume, console=_console())
    return CommandResult(f"{result.report}\nfolder: {result.path}\n", dict(result.metrics), result.exit_code)


COMMANDS: Mapping[str, tuple[CommandOptions, Callable[[ParsedArguments], CommandResult]]] = {
    "train": (options.TRAIN, _train),
    "predict": (options.PREDICT, _predict),
    "evaluate": (options.EVALUATE, _evaluate),
    "ensemble": (options.ENSEMBLE, _ensemble),
    "crossval": (experiments.CROSSVAL, _crossval),
    "compare": (experiments.COMPARE, _compare),
    "tune": (experiments.TUNE, _tune),
    "reproduce": (experiments.REPRODUCE, _reproduce),
    "runs": (experiments.RUNS, _runs),
    "audit": (analysis.AUDIT, _audit),
    "report": (analysis.REPORT, _report),
    "explain": (analysis.EXPLAIN, _explain),
    **DEPLOYMENT_COMMANDS,
    "models": (options.MODELS, _models),
    "datasets": (options.DATASETS, _datasets),
    "demo": (options.DEMO, _demo),
}
"""Options and implementation of every command."""
COMMAND_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Training and inference": ("train", "predict", "evaluate", "ensemble"),
    "Experiments": ("crossval", "compare", "tune", "reproduce", "runs"),
    "Analysis": ("audit", "report", "explain"),
    "Deployment": tuple(DEPLOYMENT_COMMANDS),
    "Models and data": ("models", "datasets", "demo"),
}
"""The commands, grouped as in `tercet --help`."""
