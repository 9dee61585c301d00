"""The keywords of the Python functions as types, for editors and type checkers.

Written by scripts/write_option_types.py from the configuration classes, which describe each option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict

Text: TypeAlias = str | PathLike[str]
Part: TypeAlias = str | Callable[..., Any]
"""The name of a registered part, or a part of the caller's."""


class _AuditConfigDict(TypedDict, total=False):
    output: Text | None
    run: Text | None
    fail_on: (
        Sequence[
            Literal[
                "unreadable",
                "duplicates",
                "leakage",
                "imbalance",
                "small-classes",
                "missing-classes",
                "labels",
                "odd-images",
            ]
        ]
        | Text
    )
    max_hash_distance: int | None
    folds: int
    imbalance: float
    feature_network: Sequence[Any] | Text
    similarity: float
    device: Text


class _DataConfigDict(TypedDict, total=False):
    layout: Literal["auto", "classes", "splits", "table"]
    train: Text | None
    val: Text | None
    test: Text | None
    class_from: Text | None
    image_column: Text | None
    label_columns: Sequence[Text] | Text | None
    label_separator: Text | None
    task: Literal["auto", "single", "multi"]
    missing_labels: Sequence[Text] | Text | None
    uncertain: Literal["negative", "positive", "ignore"] | None
    group_column: Text | None
    split_column: Text | None
    weight_column: Text | None
    group_from: Text | None
    image_pattern: Text | None
    val_fraction: float
    test_fraction: float
    split_seed: int
    max_bad_fraction: float
    max_pixels: int
    value_range: Text
    truncated: bool
    follow_links: bool
    unseen_classes: Literal["error", "leave-out"]
    memory_budget: int
    num_workers: int
    class_balanced_sampling: bool
    data_dir: Text | None
    limit: int | None
    exclude: Text | None
    find_copies: Literal["auto", "exact", "near", "none"]
    keep_copies_together: bool
    image_digests: bool


class AuditOptions(_AuditConfigDict, total=False):
    """Options of `tercet audit`."""

    data: _DataConfigDict | Mapping[str, Any]


class _CompareConfigDict(TypedDict, total=False):
    backbones: Sequence[Any] | Text
    recurrent: Sequence[Literal["none", "rnn", "gru", "lstm"]] | Text
    bidirectional: Sequence[bool] | bool | Text
    scans: Sequence[Literal["pooled", "rows", "columns", "cells", "snake", "pixels"]] | Text
    sizes: Sequence[int] | int | Text
    seeds: int
    seed: int
    baseline: Text | None
    budget: Text | None
    match_parameters: bool
    tolerance: float
    output: Text | None
    device: Text
    threads: int | None
    tensorboard: bool


class _PresetConfigDict(TypedDict, total=False):
    preset: Literal["fast", "good", "best", "paper"]


class _BackboneConfigDict(TypedDict, total=False):
    args: Mapping[str, Any]


class _InputConfigDict(TypedDict, total=False):
    size: Sequence[int] | int | Text | None
    channels: int | None
    mean: Sequence[float] | float | Text | None
    std: Sequence[float] | float | Text | None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None
    crop_mode: Literal["squash", "center", "border"] | None
    crop_pct: float | None


class _LabelsConfigDict(TypedDict, total=False):
    decoder: Literal["sigmoid", "cnn-rnn"]
    embedding_dim: int
    hidden_size: int
    beam_size: int


class _CompareModelConfigDict(TypedDict, total=False):
    backbone: _BackboneConfigDict | Mapping[str, Any]
    input: _InputConfigDict | Mapping[str, Any]
    labels: _LabelsConfigDict | Mapping[str, Any]
    pretrained: bool
    weights: Text | None
    hidden_size: int | None
    num_layers: int | None
    activation: Literal["tanh", "relu", "sigmoid"]
    recurrent_activation: Literal["sigmoid", "hard_sigmoid"]
    reset_after: bool
    num_biases: Literal[1, 2]
    head: Part
    head_hidden_dim: int | None
    noise: float
    dropout: float | None
    freeze: Sequence[Any] | Text


class _TrainingConfigDict(TypedDict, total=False):
    stages: Sequence[Any] | Text | None
    epochs: float | None
    lr: float | None
    head_lr: float | None
    layer_decay: float | None
    schedule: Part
    warmup_epochs: float
    patience: int | None
    max_time: float | None
    batch_size: int
    optimizer: Part
    weight_decay: float
    head_init: Literal["random", "logistic"]
    loss: Part
    label_smoothing: float
    class_weights: Any
    augment: Part
    random_erasing: float
    mixup: float
    cutmix: float
    micro_batches: int
    clip_grad_norm: float | None
    ema_decay: float | None
    monitor: Part
    monitor_split: Literal["validation", "test"]
    precision: Literal["32", "bf16", "auto"]
    checkpoint_seconds: float


class CompareOptions(_CompareConfigDict, _PresetConfigDict, _CompareModelConfigDict, _TrainingConfigDict, total=False):
    """Options of `tercet compare`."""

    data: _DataConfigDict | Mapping[str, Any]
    modules: Mapping[str, Callable[..., Any]] | None
    callbacks: Sequence[Any] | Any


class _FoldsConfigDict(TypedDict, total=False):
    folds: int | None
    leave_one_group_out: bool
    fold_members: Sequence[Text] | Text
    calibration_fraction: float


class _RunConfigDict(TypedDict, total=False):
    members: Sequence[Any] | Text
    ensemble_methods: Sequence[Part] | Text
    tta: Text
    output: Text | None
    seed: int
    device: Text
    threads: int | None
    tensorboard: bool


class _ModelConfigDict(TypedDict, total=False):
    backbone: _BackboneConfigDict | Mapping[str, Any]
    input: _InputConfigDict | Mapping[str, Any]
    labels: _LabelsConfigDict | Mapping[str, Any]
    pretrained: bool
    weights: Text | None
    recurrent: Literal["none", "rnn", "gru", "lstm"]
    scan: Literal["pooled", "rows", "columns", "cells", "snake", "pixels"]
    bidirectional: bool
    hidden_size: int | None
    num_layers: int | None
    activation: Literal["tanh", "relu", "sigmoid"]
    recurrent_activation: Literal["sigmoid", "hard_sigmoid"]
    reset_after: bool
    num_biases: Literal[1, 2]
    head: Part
    head_hidden_dim: int | None
    noise: float
    dropout: float | None
    freeze: Sequence[Any] | Text


class _FusionConfigDict(TypedDict, total=False):
    regime: Literal["cached", "frozen", "joint"]
    data: Literal["out-of-fold", "validation", "train"]
    num_members: int
    choose: Literal["simplest", "best"]
    width: int | None
    slope: float
    dropout: float
    steps: int | None
    lr: float
    batch_size: int
    aux_loss_weight: float
    folds: int


class _CalibrationConfigDict(TypedDict, total=False):
    temperature: Literal["auto", "none"]
    reject_risk: float | None
    coverage: float | None


class CrossvalOptions(
    _FoldsConfigDict, _RunConfigDict, _PresetConfigDict, _ModelConfigDict, _TrainingConfigDict, total=False
):
    """Options of `tercet crossval`."""

    data: _DataConfigDict | Mapping[str, Any]
    fusion: _FusionConfigDict | Mapping[str, Any]
    calibration: _CalibrationConfigDict | Mapping[str, Any]
    modules: Mapping[str, Callable[..., Any]] | None
    callbacks: Sequence[Any] | Any


class _EncoderConfigDict(TypedDict, total=False):
    input: _InputConfigDict | Mapping[str, Any]
    network: Sequence[Any] | Text
    weights: Text | None
    model: Text | None
    device: Text


class EmbedOptions(_EncoderConfigDict, total=False):
    """Options of `tercet embed`."""

    data: _DataConfigDict | Mapping[str, Any]


class _EnsembleConfigDict(TypedDict, total=False):
    ensemble_methods: Sequence[Part] | Text | None
    output: Text | None
    labels: Text | None
    ties: Literal["lowest", "mean"]
    keep: int
    seed: int
    device: Text
    threads: int | None


class EnsembleOptions(_EnsembleConfigDict, total=False):
    """Options of `tercet ensemble`."""

    fusion: _FusionConfigDict | Mapping[str, Any]
    calibration: _CalibrationConfigDict | Mapping[str, Any]


class _ReproduceConfigDict(TypedDict, total=False):
    scale: Literal["small", "paper"]
    show: bool
    steps: Sequence[Text] | Text
    replace: Sequence[Any] | Text
    dry_run: bool
    output: Text | None
    device: Text | None
    threads: int | None


class ReproduceOptions(_ReproduceConfigDict, total=False):
    """Options of `tercet reproduce`."""

    data: _DataConfigDict | Mapping[str, Any]


class _LadderConfigDict(TypedDict, total=False):
    time_budget: Text | None
    stop_at: Literal["probe", "fine-tune", "ensemble"] | None


class _TestPredictionConfigDict(TypedDict, total=False):
    predict_test: bool


class TrainOptions(
    _RunConfigDict,
    _PresetConfigDict,
    _ModelConfigDict,
    _TrainingConfigDict,
    _LadderConfigDict,
    _TestPredictionConfigDict,
    total=False,
):
    """Options of `tercet train`."""

    data: _DataConfigDict | Mapping[str, Any]
    fusion: _FusionConfigDict | Mapping[str, Any]
    calibration: _CalibrationConfigDict | Mapping[str, Any]
    modules: Mapping[str, Callable[..., Any]] | None
    callbacks: Sequence[Any] | Any


class _TuneTuneConfigDict(TypedDict, total=False):
    trials: int
    pruner: Literal["median", "hyperband", "none"]


class TuneOptions(
    _TuneTuneConfigDict, _RunConfigDict, _PresetConfigDict, _ModelConfigDict, _TrainingConfigDict, total=False
):
    """Options of `tercet tune`."""

    data: _DataConfigDict | Mapping[str, Any]
    fusion: _FusionConfigDict | Mapping[str, Any]
    modules: Mapping[str, Callable[..., Any]] | None
    callbacks: Sequence[Any] | Any
