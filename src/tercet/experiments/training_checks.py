"""Checks of the members of a run that need their networks, before any training."""

from __future__ import annotations

from dataclasses import replace

from tercet.config.model import ModelConfig
from tercet.config.training import TrainingConfig
from tercet.core.registry import PARTS
from tercet.core.runtime import seeded_generators
from tercet.data.data_module import DataModule
from tercet.experiments.custom_parts import used_parts
from tercet.experiments.head_init import linear_layer
from tercet.experiments.plan import Plan, member_to_dict
from tercet.experiments.task import task_of
from tercet.models.registry import check_logits, has_fitted_head
from tercet.training.fabric import check_step, require_bf16
from tercet.training.optimizer import make_optimizer


def check_trainings(plan: Plan, prepared: DataModule) -> None:
    """Check, before any training, what only a network shows: options that need certain layers, and a step with two
    images of members with parts of the caller's or in bf16.

    Raises:
        PartError: A part raises an exception, or returns another shape than expected.
        ConfigError: A network lacks the layers of an option, or this machine cannot compute a member in bf16.
    """
    checked: list[tuple[str, ModelConfig, TrainingConfig]] = []
    for member in plan.members:
        config, key = member.training, (member.network, member.model, member.training)
        custom = bool(used_parts(member_to_dict(member)))
        tried = custom or config.precision == "bf16"
        fitted = has_fitted_head(member.network, member.model)
        if key in checked or fitted or not (tried or _needs_layers(config)):
            continue
        checked.append(key)
        with seeded_generators(0):
            classifier = plan.build(member, load_weights=False)
            make_optimizer(classifier, config, config.stage_list()[0])
            if config.head_init == "logistic":
                linear_layer(classifier)
            if not tried:
                continue
            rows, specs = prepared.rows("train"), (classifier.spec,)
            data = replace(plan.data_config, num_workers=0)
            loader = prepared.training_loader(rows[:2], specs, training=config, data=data, seed=0)
            batch = next(iter(loader.epoch(0)))
            objective = task_of(plan).objective(member, prepared.table.take(rows))
            if custom:
                check_logits(classifier, batch.images, member=member.name)
                check_step(classifier, batch, objective, device=plan.device)
        if config.precision == "bf16":
            require_bf16(classifier, batch, objective, device=plan.device, name=member.name)


def _needs_layers(config: TrainingConfig) -> bool:
    """Whether options need layers that not every network has, or an optimizer that not every machine has."""
    options = (config.layer_decay, config.stage_list()[0].head_lr)
    return options != (None, None) or config.head_init != "random" or config.optimizer not in PARTS["optimizer"]
