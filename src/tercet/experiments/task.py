"""The two tasks, one class or a set of labels per image: what differs between them in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.config.run import MemberConfig
from tercet.core.errors import raise_problems
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.data.data_module import DataModule, Rows
from tercet.data.table import SampleTable
from tercet.ensemble.bundle import Bundle, Member
from tercet.experiments.finalize import finalize
from tercet.experiments.finalize_multilabel import finalize_multilabel
from tercet.experiments.multilabel import adapt_plan, multilabel_objective, save_multilabel
from tercet.experiments.plan import Plan
from tercet.experiments.tensorboard import stage_images
from tercet.experiments.tta import predict_rows, store_predictions
from tercet.metrics.classification import Scorer, validation_scores
from tercet.metrics.multilabel import validation_multilabel_scores
from tercet.training.callbacks import Callback, TensorBoard
from tercet.training.losses import CrossEntropy, Objective, balanced_class_weights

Scoring = tuple[Scorer, list[Callback]]
Results = tuple[Mapping[str, Any], str]


@dataclass(frozen=True)
class Task:
    """What one of the tasks does in its own way."""

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
    save: Callable[[RunFolder, Plan, DataModule, Member, MemberFolder], dict[str, Any]]
    """Saves a member's predictions and bundle, and returns additions to its summary."""
    finalize: Callable[[RunFolder, Plan, DataModule], Results]
    """Combines the members, writes predictions and bundle, and returns metrics and report."""


def _adapt_single(plan: Plan) -> Plan:
    decoders = [member.name for member in plan.members if member.model.labels.decoder != "sigmoid"]
    needs = "needs multi-label data (several --data.label-columns, or --data.label-separator)"
    raise_problems(
        [
            bool(decoders) and f"labels.decoder of {', '.join(decoders)} {needs}",
            plan.monitor in ("o_f1", "c_f1", "map") and f"monitor {plan.monitor} {needs}",
        ]
    )
    return plan


def _cross_entropy(member: MemberConfig, table: SampleTable) -> Objective:
    training, weights = member.training, None
    if training.class_weights != "none":
        weights = balanced_class_weights(table.class_counts().tolist())
    return CrossEntropy(class_weights=weights, label_smoothing=training.label_smoothing)


def _scoring_single(boards: Sequence[TensorBoard], plan: Plan, prepared: DataModule, rows: Rows) -> Scoring:
    return stage_images(
        boards, validation_scores, classes=plan.classes, store=prepared.images, rows=rows, monitor=plan.monitor
    )


def _save_single(
    run: RunFolder, plan: Plan, prepared: DataModule, member: Member, folder: MemberFolder
) -> dict[str, Any]:
    for split in plan.predicted_splits():
        if len(rows := prepared.rows(split)):
            predictions = predict_rows(member.classifier, plan, prepared, rows)
            store_predictions(predictions, run.predictions(member.name, split), folder, split)
    Bundle(plan.classes, (member,), card={"data": plan.data_card(prepared.table)}).save(folder.bundle)
    return {}


def _finalize_single(run: RunFolder, plan: Plan, prepared: DataModule) -> Results:
    results = finalize(run, plan, prepared)
    return results.metrics, results.report


_SINGLE_LABEL = Task(
    "class",
    can_combine_runs=True,
    adapt=_adapt_single,
    objective=_cross_entropy,
    scoring=_scoring_single,
    save=_save_single,
    finalize=_finalize_single,
)
_MULTILABEL = Task(
    "label",
    can_combine_runs=False,
    adapt=adapt_plan,
    objective=lambda member, table: multilabel_objective(member.model.labels, table.class_counts()),
    scoring=lambda boards, plan, prepared, rows: (validation_multilabel_scores, list(boards)),
    save=save_multilabel,
    finalize=lambda run, plan, prepared: finalize_multilabel(run, plan),
)


def task_of(plan: Plan) -> Task:
    """Return the task of a run."""
    return _MULTILABEL if plan.multilabel else _SINGLE_LABEL
