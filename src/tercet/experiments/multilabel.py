"""Multi-label training: adapt the plan, choose the loss, save a member's predictions and bundle. K labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from tercet.config.model import LabelsConfig
from tercet.config.run import METHODS, UNCALIBRATED, MemberConfig, Method
from tercet.config.training import Monitor
from tercet.core.errors import ConfigError, raise_problems
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.run_folder import MemberFolder, RunFolder
from tercet.data.data_module import DataModule
from tercet.data.table import Ints
from tercet.ensemble.bundle import Bundle, Member
from tercet.ensemble.multilabel import (
    DECODER_THRESHOLD,
    MULTILABEL_METHODS,
    MultilabelMethod,
    MultilabelRule,
    best_threshold,
    cross_fitted_multilabel,
)
from tercet.experiments.plan import Plan
from tercet.training.losses import BinaryCrossEntropy, LabelSequences, Objective

_MONITORS: dict[Monitor, Monitor] = {"accuracy": "o_f1", "macro_f1": "c_f1"}
"""Multi-label counterparts of single-label scores."""
_SINGLE_LABEL = "needs one class per image, but these data are multi-label"


def adapt_plan(plan: Plan) -> Plan:
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
    methods = cast("tuple[Method, ...]", _methods(plan.run.ensemble_methods))
    return replace(plan, members=members, calibration=UNCALIBRATED, run=replace(plan.run, ensemble_methods=methods))


def _monitor(monitor: Monitor) -> Monitor:
    if monitor in ("kappa", "sum"):
        raise ConfigError(f"monitor {monitor} {_SINGLE_LABEL}: use o_f1, c_f1, map or loss")
    return _MONITORS.get(monitor, monitor)


def _problems(member: MemberConfig) -> Iterator[str]:
    training = member.training
    single_label_options = {
        "loss": training.loss != "cross-entropy",
        "label_smoothing": training.label_smoothing > 0,
        "class_weights": training.class_weights != "none",
    }
    for option, is_set in single_label_options.items():
        if is_set:
            yield f"{option} of {member.name} {_SINGLE_LABEL}"
    if member.model.labels.decoder == "cnn-rnn" and (training.mixup or training.cutmix):
        yield f"mixup and cutmix of {member.name}: a label decoder cannot be trained on mixed label sets"


def _methods(methods: Sequence[Method]) -> tuple[str, ...]:
    """Return the ensemble methods for multi-label data: all by default, else the requested ones."""
    if tuple(methods) == METHODS:
        return MULTILABEL_METHODS
    if other := [method for method in methods if method not in MULTILABEL_METHODS]:
        raise ConfigError(
            f"ensemble_methods {', '.join(other)} {_SINGLE_LABEL}: multi-label members are combined by "
            f"{' or '.join(MULTILABEL_METHODS)}"
        )
    return tuple(methods)


def multilabel_methods(plan: Plan) -> tuple[MultilabelMethod, ...]:
    """Return the ensemble methods of a multi-label plan."""
    return tuple(method for method in MULTILABEL_METHODS if method in plan.run.ensemble_methods)


def multilabel_objective(config: LabelsConfig, counts: Ints) -> Objective:
    """Return the multi-label loss.

    Args:
        config: The decoder.
        counts: Number of training images per label (K).
    """
    return BinaryCrossEntropy() if config.decoder == "sigmoid" else LabelSequences(counts.tolist())


def save_multilabel(
    run: RunFolder, plan: Plan, prepared: DataModule, member: Member, folder: MemberFolder
) -> dict[str, Any]:
    """Save a member's bundle and its predictions on validation and test; return its threshold.

    With independent labels, the bundle's threshold is the best one on all validation rows, while the saved validation
    predictions use cross-fitted thresholds. A label decoder needs no threshold.
    """
    has_decoder = member.config.labels.decoder == "cnn-rnn"
    card = {"data": plan.data_card(prepared.table)}
    bundle = Bundle(plan.classes, (member,), card=card, sets=MultilabelRule("single", (DECODER_THRESHOLD,)))
    validation = _predict(bundle, plan, prepared, "validation")
    if not has_decoder:
        bundle = replace(bundle, sets=MultilabelRule("single", (best_threshold(validation, plan.monitor),)))
        seed, folds = plan.run.seed, plan.fusion.folds
        validation = cross_fitted_multilabel(validation, plan.monitor, folds=folds, seed=seed)
    validation.save(run.predictions(member.name, "validation"))
    if len(prepared.rows("test")):
        _predict(bundle, plan, prepared, "test").save(run.predictions(member.name, "test"))
    bundle.save(folder.bundle)
    assert bundle.sets is not None
    return {"threshold": bundle.sets.thresholds[0]}


def _predict(bundle: Bundle, plan: Plan, prepared: DataModule, split: str) -> MultilabelPredictions:
    source = prepared.loader(prepared.rows(split), bundle.specs, num_workers=plan.data_config.num_workers)
    return bundle.predict_member_labels(source, device=plan.device)[0]
