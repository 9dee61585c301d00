"""The command table: options and implementation of every command, imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from tercet.cli.deployment import SERVING, SHIPPING
from tercet.config import analysis as looks
from tercet.config import commands as verbs
from tercet.config import experiments as studies
from tercet.config.model import ModelConfig
from tercet.config.parser import CommandOptions, ParsedArguments
from tercet.config.run import DataConfig, FusionConfig
from tercet.core.process import ParentLink
from tercet.core.result import CommandResult as CommandResult
from tercet.core.streams import SafeStream


def _console() -> Any:
    from rich.console import Console

    return Console(file=cast("IO[str]", SafeStream(sys.stderr)))


def _told(run: Any) -> CommandResult:
    """Return the answer of a verb that leaves a run."""
    return CommandResult(
        f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics)
    )


def _train(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.train import run_training

    resume = parsed.of(verbs.ResumeConfig).resume
    return _told(run_training(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _crossval(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.crossval import run_crossval

    resume = parsed.of(verbs.ResumeConfig).resume
    return _told(run_crossval(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _tune(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.tune import run_tuning

    resume, space = parsed.of(verbs.ResumeConfig).resume, parsed.of(studies.TuneConfig).space
    tuning = run_tuning(parsed.positional["data"], parsed, space=space, resume=resume, console=_console())
    return CommandResult(f"{tuning.report}\nfolder: {tuning.path}\nbest:   {tuning.best}\n", dict(tuning.metrics))


def _ensemble(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.ensemble_files import are_files, combine_files

    inputs = parsed.positional["inputs"]
    if are_files(inputs):  # needs no PyTorch
        result = combine_files(inputs, parsed)
        return CommandResult(result.to_text(), result.to_dict())
    from tercet.experiments.ensemble import run_ensemble

    run = run_ensemble(inputs, parsed, console=_console())
    return CommandResult(f"{run.report}\nbundle: {run.path / 'bundle'}\n", dict(run.metrics))


def _evaluate(parsed: ParsedArguments) -> CommandResult:
    from tercet.core.model_formats import is_onnx

    bundle = parsed.positional["bundle"]
    work: Callable[..., Any]
    if is_onnx(bundle):
        from tercet.inference.evaluate_file import evaluate_file as work
    else:
        from tercet.inference.predict import evaluate as work

    place = parsed.of(verbs.DeviceConfig)
    evaluation = work(
        bundle,
        parsed.positional["data"],
        config=parsed.of(DataConfig),
        tta=parsed.of(verbs.TTAOptions).tta,
        include_seen=parsed.of(verbs.EvaluateConfig).include_seen,
        batch_size=place.batch_size,
        device=place.device,
    )
    return CommandResult(evaluation.to_text(), evaluation.to_dict())


def _predict(parsed: ParsedArguments) -> CommandResult:
    from tercet.core.model_formats import is_onnx
    from tercet.inference.predict_file import predict_in_child, resource_bounds

    bundle, bounds = parsed.positional["bundle"], parsed.of(verbs.LimitsConfig)
    memory, seconds = bounds.max_memory, bounds.max_seconds
    if bounds.any and ParentLink.from_environment() is None:
        words = [*parsed.to_arguments(), "--", bundle, *parsed.positional["images"]]
        return CommandResult.from_exit_code(predict_in_child(words, memory=memory, seconds=seconds))
    work: Callable[..., Any]
    if is_onnx(bundle):  # this road loads no PyTorch
        from tercet.inference.predict_file import predict_with_file as work
    else:
        from tercet.inference.predict import predict_files as work

    config, place = parsed.of(verbs.PredictConfig), parsed.of(verbs.DeviceConfig)
    with resource_bounds(memory=memory, seconds=seconds):
        result = work(
            bundle,
            parsed.positional["images"],
            csv=config.csv,
            submission=config.submission,
            top_k=config.top_k,
            tta=parsed.of(verbs.TTAOptions).tta,
            batch_size=place.batch_size,
            device=place.device,
        )
    return CommandResult(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)


def _compare(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.compare import run_comparison

    resume = parsed.of(verbs.ResumeConfig).resume
    found = run_comparison(parsed.positional["data"], parsed, resume=resume, console=_console())
    return CommandResult(f"{found.report}\nfolder: {found.path}\n", dict(found.metrics), found.exit_code)


def _runs(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.runs import runs

    found = runs(parsed.positional["folder"] or "runs", sort=parsed.of(studies.RunsConfig).sort)
    return CommandResult(found.to_text(), found.to_dict())


def _report(parsed: ParsedArguments) -> CommandResult:
    from tercet.report.run import write_report

    config = parsed.of(looks.ReportConfig)
    written = write_report(
        parsed.positional["runs"], output=config.output, leaderboard=config.leaderboard, title=config.title
    )
    return CommandResult(written.to_text(), written.to_dict())


def _models(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.catalog import describe_model, list_models

    name, network = parsed.positional["name"], parsed.of(verbs.NetworkConfig)
    if name is None:
        answer = list_models()
    else:
        size = (network.image_size[0], network.image_size[-1])
        answer = describe_model(
            name,
            num_classes=network.classes,
            config=parsed.of(ModelConfig),
            channels=network.channels,
            image_size=size,
            num_members=network.members,
            fusion=parsed.of(FusionConfig),
        )
    return answer


def _datasets(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.catalog import describe_dataset, list_datasets

    name = parsed.positional["name"]
    answer = list_datasets() if name is None else describe_dataset(name)
    return answer


def _audit(parsed: ParsedArguments) -> CommandResult:
    from tercet.audit.run import run_audit

    done = run_audit(parsed.positional["data"], parsed, console=_console())
    return CommandResult(done.to_text(), done.to_dict(), done.exit_code)


def _demo(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.train import demo

    return _told(demo(output=parsed.of(verbs.DemoConfig).output, console=_console()))


def _explain(parsed: ParsedArguments) -> CommandResult:
    from tercet.explain.explain import explain_images
    from tercet.explain.layers import list_layers, require_layers_alone

    config, images = parsed.of(looks.ExplainConfig), parsed.positional["images"]
    if config.layers:
        require_layers_alone(config, images)
        answer = list_layers(parsed.positional["bundle"], member=config.member)
        return answer
    found = explain_images(
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
    return CommandResult(found.to_text(), found.to_dict(), exit_code=3 if found.bad else 0)


def _reproduce(parsed: ParsedArguments) -> CommandResult:
    from tercet.experiments.reproduce import list_recipes, run_reproduction, show_recipe

    recipe, resume = parsed.positional["recipe"], parsed.of(verbs.ResumeConfig).resume
    if recipe is None and resume is None:
        answer = list_recipes()
        return answer
    if parsed.of(studies.ReproduceConfig).show:
        answer = show_recipe(recipe)
        return answer
    done = run_reproduction(recipe, parsed.positional["data"], parsed, resume=resume, console=_console())
    return CommandResult(f"{done.report}\nfolder: {done.path}\n", dict(done.metrics), done.exit_code)


VERBS: Mapping[str, tuple[CommandOptions, Callable[[ParsedArguments], CommandResult]]] = {
    "train": (verbs.TRAIN, _train),
    "predict": (verbs.PREDICT, _predict),
    "evaluate": (verbs.EVALUATE, _evaluate),
    "ensemble": (verbs.ENSEMBLE, _ensemble),
    "crossval": (studies.CROSSVAL, _crossval),
    "compare": (studies.COMPARE, _compare),
    "tune": (studies.TUNE, _tune),
    "reproduce": (studies.REPRODUCE, _reproduce),
    "runs": (studies.RUNS, _runs),
    "audit": (looks.AUDIT, _audit),
    "report": (looks.REPORT, _report),
    "explain": (looks.EXPLAIN, _explain),
    **SHIPPING,
    **SERVING,
    "models": (verbs.MODELS, _models),
    "datasets": (verbs.DATASETS, _datasets),
    "demo": (verbs.DEMO, _demo),
}
"""Options and implementation of every command."""
PURPOSES: Mapping[str, tuple[str, ...]] = {
    "Training and inference": ("train", "predict", "evaluate", "ensemble"),
    "Experiments": ("crossval", "compare", "tune", "reproduce", "runs"),
    "Analysis": ("audit", "report", "explain"),
    "Deployment": (*SHIPPING, *SERVING),
    "Catalogue": ("models", "datasets", "demo"),
}
"""The commands, grouped as in `tercet --help`."""
