"""What is different where images have sets of labels: the plan, what is minimised, and what a member leaves.

K labels.
"""

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
from tercet.experiments.data_summary import trained_on
from tercet.experiments.plan import Plan
from tercet.training.losses import BinaryCrossEntropy, LabelSequences, Objective

_MULTILABEL: dict[Monitor, Monitor] = {"accuracy": "o_f1", "macro_f1": "c_f1"}
"""What the usual words mean for label sets."""
_UNFIT = "one class an image, and here every image has a set of labels"


def is_multilabel(plan: Plan) -> Plan:
    """Return the plan as it is meant for label sets.

    Raises:
        ConfigError: Options that only make sense where an image has one class.
    """
    members = tuple(
        replace(member, training=replace(member.training, monitor=_monitor(member.training.monitor)))
        for member in plan.members
    )
    views = not plan.run.views.plain and f"tta {plan.run.views} averages probabilities of {_UNFIT}"
    promised = plan.calibration.guarantees and f"calibration.reject_risk and coverage are for {_UNFIT}"
    raise_problems([views, promised, *(problem for member in members for problem in _problems(member))])
    plan = replace(plan, calibration=UNCALIBRATED)
    return replace(
        plan,
        members=members,
        run=replace(plan.run, ensemble_methods=cast("tuple[Method, ...]", _fuse(plan.run.ensemble_methods))),
    )


def _monitor(monitor: Monitor) -> Monitor:
    if monitor in ("kappa", "sum"):
        raise ConfigError(f"monitor {monitor} is for {_UNFIT}: give o_f1, c_f1, map or loss")
    return _MULTILABEL.get(monitor, monitor)


def _problems(member: MemberConfig) -> Iterator[str]:
    training = member.training
    named = {
        "label_smoothing": training.label_smoothing > 0,
        "class_weights": training.class_weights != "none",
    }
    yield from (f"{name} of {member.name} is for {_UNFIT}" for name, is_set in named.items() if is_set)
    if member.model.labels.decoder == "cnn-rnn" and (training.mixup or training.cutmix):
        yield f"mixup and cutmix of {member.name} blend label sets, and no sequence of labels stands for a blend"


def _fuse(methods: Sequence[Method]) -> tuple[str, ...]:
    """Return the ways to fuse that there are for sets; all of them where nothing was asked."""
    if tuple(methods) == METHODS:
        return MULTILABEL_METHODS
    if other := [method for method in methods if method not in MULTILABEL_METHODS]:
        raise ConfigError(
            f"ensemble_methods {', '.join(other)} needs probabilities of one class an image: label sets are fused by "
            f"{' or '.join(MULTILABEL_METHODS)}"
        )
    return tuple(methods)


def multilabel_methods(plan: Plan) -> tuple[MultilabelMethod, ...]:
    """Return the ways to fuse that a plan names."""
    return tuple(method for method in MULTILABEL_METHODS if method in plan.run.ensemble_methods)


def multilabel_objective(config: LabelsConfig, counts: Ints) -> Objective:
    """Return what a network for label sets minimises.

    Args:
        config: Its decoder.
        counts: How often each label occurs in training (K).
    """
    return BinaryCrossEntropy() if config.decoder == "sigmoid" else LabelSequences(counts.tolist())


def save_multilabel(
    run: RunFolder, plan: Plan, prepared: DataModule, member: Member, folder: MemberFolder
) -> dict[str, Any]:
    """Store a member's predictions on validation and test, and its own bundle; return its threshold.

    A network that scores every label by itself gets the threshold that is best on all validation rows; the stored sets
    of validation rows are chosen by thresholds fitted without them. A decoder chooses its labels itself.
    """
    decided = member.config.labels.decoder == "cnn-rnn"
    card = {"data": trained_on(plan, prepared.table)}
    bundle = Bundle(plan.classes, (member,), card=card, sets=MultilabelRule("single", (DECODER_THRESHOLD,)))
    on_validation = _predict(bundle, plan, prepared, "validation")
    if not decided:
        bundle = replace(bundle, sets=MultilabelRule("single", (best_threshold(on_validation, plan.monitor),)))
        seed, folds = plan.run.seed, plan.fusion.folds
        on_validation = cross_fitted_multilabel(on_validation, plan.monitor, folds=folds, seed=seed)
    on_validation.save(run.predictions(member.name, "validation"))
    if len(prepared.rows("test")):
        _predict(bundle, plan, prepared, "test").save(run.predictions(member.name, "test"))
    bundle.save(folder.bundle)
    assert bundle.sets is not None
    return {"threshold": bundle.sets.thresholds[0]}


def _predict(bundle: Bundle, plan: Plan, prepared: DataModule, split: str) -> MultilabelPredictions:
    source = prepared.loader(prepared.rows(split), bundle.specs, num_workers=plan.data_config.num_workers)
    return bundle.predict_member_labels(source, device=plan.device)[0]
