"""The command table: options and implementation of every command, imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from tercet.ground.children import Leash
from tercet.ground.result import Answer as Answer
from tercet.ground.streams import PatientStream
from tercet.records.config import DataConfig, FusionConfig
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options, Parsed
from tercet.verbs.serving import SERVING
from tercet.verbs.shipping import SHIPPING
from tercet.workflows.options import look as looks
from tercet.workflows.options import run as verbs
from tercet.workflows.options import study as studies


def _console() -> Any:
    from rich.console import Console

    return Console(file=cast("IO[str]", PatientStream(sys.stderr)))


def _told(run: Any) -> Answer:
    """Return the answer of a verb that leaves a run."""
    return Answer(f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics))


def _train(parsed: Parsed) -> Answer:
    from tercet.workflows.train.run import run_training

    resume = parsed.of(verbs.ResumeConfig).resume
    return _told(run_training(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _crossval(parsed: Parsed) -> Answer:
    from tercet.workflows.crossval.run import run_crossval

    resume = parsed.of(verbs.ResumeConfig).resume
    return _told(run_crossval(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _tune(parsed: Parsed) -> Answer:
    from tercet.workflows.tune.run import run_tuning

    resume, space = parsed.of(verbs.ResumeConfig).resume, parsed.of(studies.TuneConfig).space
    tuning = run_tuning(parsed.positional["data"], parsed, space=space, resume=resume, console=_console())
    return Answer(f"{tuning.report}\nfolder: {tuning.path}\nbest:   {tuning.best}\n", dict(tuning.metrics))


def _ensemble(parsed: Parsed) -> Answer:
    from tercet.workflows.blend import are_files, combine_files

    inputs = parsed.positional["inputs"]
    if are_files(inputs):  # needs no PyTorch
        result = combine_files(inputs, parsed)
        return Answer(result.to_text(), result.to_dict())
    from tercet.workflows.train.ensemble import run_ensemble

    run = run_ensemble(inputs, parsed, console=_console())
    return Answer(f"{run.report}\nbundle: {run.path / 'bundle'}\n", dict(run.metrics))


def _evaluate(parsed: Parsed) -> Answer:
    from tercet.deploy.formats import is_onnx

    bundle = parsed.positional["bundle"]
    work: Callable[..., Any]
    if is_onnx(bundle):
        from tercet.workflows.infer.exported_file import evaluate_file as work
    else:
        from tercet.workflows.infer.run import evaluate as work

    place = parsed.of(verbs.DeviceConfig)
    evaluation = work(
        bundle,
        parsed.positional["data"],
        config=parsed.of(DataConfig),
        tta=parsed.of(verbs.ViewsConfig).tta,
        include_seen=parsed.of(verbs.SeenConfig).include_seen,
        batch_size=place.batch_size,
        device=place.device,
    )
    return Answer(evaluation.to_text(), evaluation.to_dict())


def _predict(parsed: Parsed) -> Answer:
    from tercet.deploy.formats import is_onnx
    from tercet.workflows.infer.bounded import predict_bounded, within_bounds

    bundle, bounds = parsed.positional["bundle"], parsed.of(verbs.BoundsConfig)
    memory, seconds = bounds.max_memory, bounds.max_seconds
    if bounds.any and Leash.take() is None:
        words = [*parsed.to_words(), "--", bundle, *parsed.positional["images"]]
        return Answer.given_elsewhere(predict_bounded(words, memory=memory, seconds=seconds))
    work: Callable[..., Any]
    if is_onnx(bundle):  # this road loads no PyTorch
        from tercet.workflows.infer.classifying import classify_with_file as work
    else:
        from tercet.workflows.infer.run import predict_files as work

    config, place = parsed.of(verbs.PredictConfig), parsed.of(verbs.DeviceConfig)
    with within_bounds(memory=memory, seconds=seconds):
        result = work(
            bundle,
            parsed.positional["images"],
            csv=config.csv,
            submission=config.submission,
            top_k=config.top_k,
            tta=parsed.of(verbs.ViewsConfig).tta,
            batch_size=place.batch_size,
            device=place.device,
        )
    return Answer(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)


def _compare(parsed: Parsed) -> Answer:
    from tercet.workflows.compare.run import run_comparison

    resume = parsed.of(verbs.ResumeConfig).resume
    found = run_comparison(parsed.positional["data"], parsed, resume=resume, console=_console())
    return Answer(f"{found.report}\nfolder: {found.path}\n", dict(found.metrics), found.exit_code)


def _runs(parsed: Parsed) -> Answer:
    from tercet.workflows.runs import runs

    found = runs(parsed.positional["folder"] or "runs", sort=parsed.of(studies.RunsConfig).sort)
    return Answer(found.to_text(), found.to_dict())


def _report(parsed: Parsed) -> Answer:
    from tercet.workflows.report.run import write_report

    config = parsed.of(looks.ReportConfig)
    written = write_report(
        parsed.positional["runs"], output=config.output, leaderboard=config.leaderboard, title=config.title
    )
    return Answer(written.to_text(), written.to_dict())


def _models(parsed: Parsed) -> Answer:
    from tercet.workflows.inspect import describe_model, list_models

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


def _datasets(parsed: Parsed) -> Answer:
    from tercet.workflows.inspect import describe_dataset, list_datasets

    name = parsed.positional["name"]
    answer = list_datasets() if name is None else describe_dataset(name)
    return answer


def _audit(parsed: Parsed) -> Answer:
    from tercet.workflows.audit.run import run_audit

    done = run_audit(parsed.positional["data"], parsed, console=_console())
    return Answer(done.to_text(), done.to_dict(), done.exit_code)


def _demo(parsed: Parsed) -> Answer:
    from tercet.workflows.train.demo import demo

    return _told(demo(output=parsed.of(verbs.DemoConfig).output, console=_console()))


def _explain(parsed: Parsed) -> Answer:
    from tercet.workflows.explain.layers import list_layers, require_layers_alone
    from tercet.workflows.explain.run import explain_images

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
    return Answer(found.to_text(), found.to_dict(), exit_code=3 if found.bad else 0)


def _reproduce(parsed: Parsed) -> Answer:
    from tercet.workflows.study.listing import list_recipes, show_recipe
    from tercet.workflows.study.run import run_reproduction

    recipe, resume = parsed.positional["recipe"], parsed.of(verbs.ResumeConfig).resume
    if recipe is None and resume is None:
        answer = list_recipes()
        return answer
    if parsed.of(studies.ReproduceConfig).show:
        answer = show_recipe(recipe)
        return answer
    done = run_reproduction(recipe, parsed.positional["data"], parsed, resume=resume, console=_console())
    return Answer(f"{done.report}\nfolder: {done.path}\n", dict(done.metrics), done.exit_code)


VERBS: Mapping[str, tuple[Options, Callable[[Parsed], Answer]]] = {
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
