"""The two tasks, one class or a set of labels per image: their losses, scores, options and results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tercet.config.model import LabelsConfig
from tercet.config.run import DEFAULT_METHODS, UNCALIBRATED, MemberConfig
from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.output import join_few
from tercet.core.registry import did_you_mean
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.data.data_module import DataModule, Rows
from tercet.data.table import Ints, SampleTable
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.multilabel import (
    DECODER_THRESHOLD,
    SINGLE,
    MultilabelRule,
    best_threshold,
    cross_fitted_multilabel,
    multilabel_methods,
)
from tercet.experiments.finalize import finalize
from tercet.experiments.finalize_multilabel import finalize_multilabel
from tercet.experiments.frozen import FrozenBackbone, without_backbone
from tercet.experiments.plan import Plan
from tercet.experiments.tensorboard import stage_images
from tercet.experiments.tta import predict_rows, store_predictions
from tercet.metrics.classification import Scorer, validation_scores
from tercet.metrics.metric import find_metric
from tercet.metrics.multilabel import validation_multilabel_scores
from tercet.models.forward import predict_logits
from tercet.models.registry import fitted_head
from tercet.training.callbacks import Callback, TensorBoard
from tercet.training.losses import (
    BinaryCrossEntropy,
    LabelSequences,
    Objective,
    SingleLabel,
    class_weights,
)
from tercet.training.multilabel_heads import MULTILABEL_FITTERS

Scoring = tuple[Scorer, list[Callback]]
Results = tuple[Mapping[str, Any], str]


@dataclass(frozen=True)
class Task:
    """Functions that differ between the tasks."""

    noun: str
    """Name of an output."""
    can_combine_runs: bool
    """Whether members of several runs can be combined."""
    adapt: Callable[[Plan], Plan]
    """Returns the plan with the options that the task implies; raises ConfigError for options of the other task."""
    objective: Callable[[MemberConfig, SampleTable], Objective]
    """Returns the loss of a member; the table has the training samples."""
    scoring: Callable[[Sequence[TensorBoard], Plan, DataModule, Rows], Scoring]
    """Returns the scorer of the monitored rows, and the callbacks that draw."""
    save: Callable[[RunFolder, Plan, DataModule, Member, MemberFolder, FrozenBackbone | None], dict[str, Any]]
    """Saves a member's predictions and bundle, and returns additions to its summary; the features of a frozen backbone
    are used if given."""
    finalize: Callable[[RunFolder, Plan, DataModule], Results]
    """Combines the members, writes predictions and bundle, and returns metrics and report."""


_MONITORS: dict[Monitor, Monitor] = {"accuracy": "o_f1", "macro_f1": "c_f1"}
"""Multi-label counterparts of single-label scores."""
_SINGLE_LABEL = "needs one class per image, but these data are multi-label"


def _adapt_multilabel(plan: Plan) -> Plan:
    """Return the plan with multi-label monitors and ensemble methods.

    Raises:
        ConfigError: Options that need one class per image.
    """
    members = tuple(
        replace(member, training=replace(member.training, monitor=_monitor(member.training.monitor)))
        for member in plan.members
    )
    tta = not plan.run.views.plain and f"tta {plan.run.views} {_SINGLE_LABEL}"
    calibration = plan.calibration.guarantees and f"calibration.reject_risk and coverage: {_SINGLE_LABEL}"
    raise_problems([tta, calibration, *(problem for member in members for problem in _problems(member))])
    methods = _methods(plan.run.ensemble_methods)
    return replace(plan, members=members, calibration=UNCALIBRATED, run=replace(plan.run, ensemble_methods=methods))


def _monitor(monitor: Monitor) -> Monitor:
    name = _MONITORS.get(monitor, monitor)
    if "multi" not in find_metric(name).tasks:
        raise ConfigError(f"monitor {monitor} {_SINGLE_LABEL}: use o_f1, c_f1, map or loss")
    return name


def _problems(member: MemberConfig) -> Iterator[str]:
    training, fitted = member.training, fitted_head(member.network, member.model)
    if fitted is not None and member.model.labels.decoder != "sigmoid":
        yield f"labels.decoder of {member.name} is trained by gradient steps: use --head linear"
    single_label_options = {
        f"head {fitted}": fitted is not None and fitted not in MULTILABEL_FITTERS,
        "loss": training.loss != "cross-entropy",
        "label_smoothing": training.label_smoothing > 0,
        "class_weights": training.class_weights != "none",
        "head_init logistic": training.head_init != "random",
    }
    for option, is_set in single_label_options.items():
        if is_set:
            yield f"{option} of {member.name} {_SINGLE_LABEL}"
    if member.model.labels.decoder == "cnn-rnn" and (training.mixup or training.cutmix):
        yield f"mixup and cutmix of {member.name}: a label decoder cannot be trained on mixed label sets"


def _methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the ensemble methods for multi-label data in order of preference: the requested ones, or the default."""
    known = multilabel_methods()
    other = [method for method in methods if method not in known]
    if other and tuple(methods) != DEFAULT_METHODS:
        raise ConfigError(
            f"ensemble_methods {', '.join(other)} {_SINGLE_LABEL}: multi-label members are combined by "
            f"{' or '.join(known)}"
        )
    return tuple(method for method in known if method in methods)


def multilabel_objective(config: LabelsConfig, counts: Ints) -> Objective:
    """Return the multi-label loss.

    Args:
        config: The decoder.
        counts: Number of training images per label (K).
    """
    return BinaryCrossEntropy() if config.decoder == "sigmoid" else LabelSequences(counts.tolist())


def _save_multilabel(
    run: RunFolder,
    plan: Plan,
    prepared: DataModule,
    member: Member,
    folder: MemberFolder,
    frozen: FrozenBackbone | None,
) -> dict[str, Any]:
    """Save a member's bundle and its predictions on validation and test; return its threshold.

    With independent labels, the bundle's threshold is the best one on all validation rows, while the saved validation
    predictions use cross-fitted thresholds. A label decoder needs no threshold.
    """
    has_decoder = member.config.labels.decoder == "cnn-rnn"
    card = {"data": plan.data_card(prepared.table)}
    bundle = Bundle(plan.classes, (member,), card=card, sets=MultilabelRule(SINGLE, (DECODER_THRESHOLD,)))
    validation = _predict(bundle, plan, prepared, "validation", frozen)
    if not has_decoder:
        bundle = replace(bundle, sets=MultilabelRule(SINGLE, (best_threshold(validation, plan.monitor),)))
        validation = cross_fitted_multilabel(
            [validation],
            lambda fitted, others: others[0].with_threshold(best_threshold(fitted[0], plan.monitor)),
            folds=plan.fusion.folds,
            seed=plan.run.seed,
        )
    validation.save(run.predictions(member.name, "validation"))
    if len(prepared.rows("test")):
        _predict(bundle, plan, prepared, "test", frozen).save(run.predictions(member.name, "test"))
    bundle.save(folder.bundle)
    assert bundle.sets is not None
    return {"threshold": bundle.sets.thresholds[0]}


def _predict(
    bundle: Bundle, plan: Plan, prepared: DataModule, split: str, frozen: FrozenBackbone | None
) -> MultilabelPredictions:
    """Return the predictions of the only member of a bundle."""
    loader = prepared.loader(prepared.rows(split), bundle.specs, num_workers=plan.data_config.num_workers)
    module, loader = without_backbone(bundle.members[0].classifier, loader, frozen)
    assert bundle.sets is not None
    return bundle.sets.members(predict_logits(module, loader, device=plan.device), bundle.classes)[0]


def _adapt_single(plan: Plan) -> Plan:
    decoders = [member.name for member in plan.members if member.model.labels.decoder != "sigmoid"]
    needs = "needs multi-label data (several --data.label-columns, or --data.label-separator)"
    raise_problems(
        [
            *(problem for member in plan.members for problem in _unknown_classes(member, plan.classes)),
            bool(decoders) and f"labels.decoder of {', '.join(decoders)} {needs}",
            "single" not in find_metric(plan.monitor).tasks and f"monitor {plan.monitor} {needs}",
        ]
    )
    return plan


def _unknown_classes(member: MemberConfig, classes: Sequence[str]) -> Iterator[str]:
    weights = member.training.class_weights
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in classes:
            yield (f"class_weights: unknown class '{name}'{did_you_mean(name, classes)} (classes: {join_few(classes)})")


def _cross_entropy(member: MemberConfig, table: SampleTable) -> Objective:
    training = member.training
    return SingleLabel(
        training.loss,
        weight=class_weights(training, table),
        label_smoothing=training.label_smoothing,
        weighted=table.weights is not None,
    )


def _names(plan: Plan, prepared: DataModule, rows: Rows) -> dict[str, Any]:
    """Return what a metric of the caller's finds in its predictions, besides the values."""
    return {"monitor": plan.monitor, "classes": plan.classes, "ids": [prepared.table.ids[row] for row in rows]}


def _scoring_single(boards: Sequence[TensorBoard], plan: Plan, prepared: DataModule, rows: Rows) -> Scoring:
    scorer = partial(validation_scores, **_names(plan, prepared, rows))
    return stage_images(boards, scorer, classes=plan.classes, store=prepared.images, rows=rows, monitor=plan.monitor)


def _scoring_multilabel(boards: Sequence[TensorBoard], plan: Plan, prepared: DataModule, rows: Rows) -> Scoring:
    return partial(validation_multilabel_scores, **_names(plan, prepared, rows)), list(boards)


def _save_single(
    run: RunFolder,
    plan: Plan,
    prepared: DataModule,
    member: Member,
    folder: MemberFolder,
    frozen: FrozenBackbone | None,
) -> dict[str, Any]:
    for split in plan.predicted_splits():
        if len(rows := prepared.rows(split)):
            predictions = predict_rows(member.classifier, plan, prepared, rows, frozen)
            store_predictions(predictions, run.predictions(member.name, split), folder, split)
    Bundle(plan.classes, (member,), card={"data": plan.data_card(prepared.table)}).save(folder.bundle)
    return {}


def _finalize_single(run: RunFolder, plan: Plan, prepared: DataModule) -> Results:
    results = finalize(run, plan, prepared)
    return results.metrics, results.report


_SINGLE = Task(
    "class",
    can_combine_runs=True,
    adapt=_adapt_single,
    objective=_cross_entropy,
    scoring=_scoring_single,
    save=_save_single,
    finalize=_finalize_single,
)
_MULTI = Task(
    "label",
    can_combine_runs=False,
    adapt=_adapt_multilabel,
    objective=lambda member, table: multilabel_objective(member.model.labels, table.class_counts()),
    scoring=_scoring_multilabel,
    save=_save_multilabel,
    finalize=lambda run, plan, prepared: finalize_multilabel(run, plan),
)


def task_of(plan: Plan) -> Task:
    """Return the task of a run."""
    return _MULTI if plan.multilabel else _SINGLE
