"""The end-to-end ensemble in its regimes, on a finished run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fixtures.runs import OPTIONS, draw_folder

from tercet.config.run import FusionConfig
from tercet.config.training import StageConfig, TrainingConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.types import Batch
from tercet.ensemble.bundle import load_bundle
from tercet.ensemble.combiners import apply_head
from tercet.experiments import end_to_end, fusion_training
from tercet.experiments.end_to_end import EndToEndFitter, joint_objective
from tercet.experiments.ensemble import combine
from tercet.experiments.ensemble_files import CombinedPredictions
from tercet.experiments.fit_ensemble import read_members
from tercet.experiments.fusion_training import FusionTrainer, HeadFitter, ProbabilitySource
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train
from tercet.models.fusion_head import EndToEnd, FusionHead
from tercet.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("alone")
HEAD = {**OPTIONS["fusion"], "steps": 12, "lr": 1e-2}
WIDE = {**OPTIONS, "members": [{"name": "wide", "model": "small-cnn", "epochs": 1, "head_hidden_dim": 48}]}


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    return {
        f"{member.name}.{name}": value.clone()
        for member in load_bundle(bundle).members
        for name, value in member.classifier.state_dict().items()
    }


@pytest.mark.parametrize(
    ("regime", "data"),
    [
        ("cached", "validation"),
        ("cached", "train"),
        ("cached", "out-of-fold"),
        ("frozen", "validation"),
        ("frozen", "train"),
        ("joint", "train"),
    ],
)
def test_every_regime_trains_an_accurate_ensemble(
    finished: Run, tmp_path: Path, shapes: Path, regime: str, data: str
) -> None:
    result = combine(
        [finished.path],
        ensemble_methods=["e2e"],
        output=str(tmp_path / "out"),
        fusion={**HEAD, "regime": regime, "data": data},
        calibration={"temperature": "none"},
    )
    row = result.metrics["ensembles"][0]
    assert regime in row["fitted_on"] and data in row["fitted_on"]
    assert row["test"]["accuracy"] > 0.6
    before = {
        name: value
        for member in ("small-cnn", "row-gru", "wide")
        for name, value in weights(RunFolder(finished.path).member(member).bundle).items()
    }
    after = weights(result.path / "bundle")
    unchanged = [torch.equal(before[name], after[name]) for name in before]
    assert all(unchanged) if regime != "joint" else not all(unchanged)
    stored = Predictions.load(result.path / "predictions" / "e2e-test.npz")
    predictions = result.bundle().predict([shapes / name for name in stored.ids])
    assert np.abs(predictions.probabilities - stored.probabilities).max() < 1e-5
    if data == "out-of-fold":
        check_out_of_fold_predictions(RunFolder(finished.path))


def check_out_of_fold_predictions(run: RunFolder) -> None:
    """Assert that every member predicts each training row once."""
    table = Plan.load(run).open_data(run).table
    expected = {table.ids[row] for row in table.rows_of("train")}
    for member in read_members(run, ["small-cnn", "row-gru"], ("validation",)):
        predictions = member.predictions["out-of-fold"]
        assert set(predictions.ids) == expected and len(predictions) == len(expected)


@pytest.mark.parametrize("data", ["validation", "train"])
def test_outputs_train_the_same_head_as_images(finished: Run, data: Any) -> None:
    run = RunFolder(finished.path)
    plan, bundle = Plan.load(run), load_bundle(run.bundle)
    plan = replace(plan, fusion=FusionConfig(**{**HEAD, "regime": "frozen", "data": data}))
    fitter = EndToEndFitter(plan, plan.open_data(run), bundle.members, {})
    rows = np.arange(5, 15) if data == "validation" else None
    heads = [fit(rows).state_dict() for fit in (fitter._fit_frozen, fitter._fit_outputs, fitter._fit_graph)]
    for name, value in heads[0].items():
        assert torch.equal(value, heads[1][name])
        torch.testing.assert_close(value, heads[2][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("regime", "data"), [("frozen", "out-of-fold"), ("joint", "out-of-fold"), ("joint", "validation")]
)
def test_other_pairs_of_regime_and_data_are_an_error(finished: Run, tmp_path: Path, regime: str, data: str) -> None:
    with pytest.raises(ConfigError, match=r"use (cached|train)"):
        combine([finished.path], output=str(tmp_path / "out"), fusion={"regime": regime, "data": data})


def test_cross_fitted_heads_are_trained_without_the_rows_they_predict(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(finished.path)
    plan = replace(Plan.load(run), fusion=FusionConfig(width=8, steps=3, folds=3))
    members = read_members(run, ["small-cnn", "wide"], ("validation",))
    fitter = EndToEndFitter(
        plan,
        plan.open_data(run),
        tuple(member.load() for member in members),
        {"validation": [member.predictions["validation"] for member in members]},
    )
    trained: list[set[str]] = []
    predicted: list[set[str]] = []
    train_head, apply_head = HeadFitter.train, end_to_end.apply_head

    def spy_train(self: Any, module: Any, source: Any, *rest: Any) -> None:
        trained.append(set(source.ids))
        train_head(self, module, source, *rest)

    def spy_apply(head: Any, members: Any) -> Predictions:
        predicted.append(set(members[0].ids))
        return apply_head(head, members)

    monkeypatch.setattr(HeadFitter, "train", spy_train)
    for module in (end_to_end, fusion_training):
        monkeypatch.setattr(module, "apply_head", spy_apply)
    result = fitter.fit()
    assert all(not rows & held_out for rows, held_out in zip(trained[:3], predicted[:3], strict=True))
    assert set.union(*predicted[:3]) == set(result.predictions["validation"].ids)
    assert trained[3] == set(result.predictions["validation"].ids)  # the head of the bundle is trained on all of them


def test_runs_on_the_same_data_can_be_combined(finished: Run, shapes: Path, tmp_path: Path) -> None:
    more = train(shapes, output=str(tmp_path / "more"), **{**WIDE, "seed": 5})
    result = combine([finished.path, more.path], ensemble_methods=["average"], output=str(tmp_path / "out"))
    names = [row["name"] for row in result.metrics["members"]]
    assert len(names) == len(set(names)) == 4
    assert len(result.bundle().members) == 4


def test_runs_on_other_splits_or_data_cannot_be_combined(finished: Run, shapes: Path, tmp_path: Path) -> None:
    other_split = train(shapes, output=str(tmp_path / "a"), data={"split_seed": 3}, **WIDE)
    with pytest.raises(DataError, match="split-seed"):
        combine([finished.path, other_split.path], output=str(tmp_path / "out"))
    other_data = train(draw_folder(tmp_path / "data", count=14, seed=4), output=str(tmp_path / "b"), **WIDE)
    with pytest.raises(DataError, match="different data"):
        combine([finished.path, other_data.path], output=str(tmp_path / "out"))


def test_probability_batches_are_a_pure_function_of_the_epoch() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    members = [Predictions.of(rows, labels=np.arange(50) % 3)] * 2
    source = ProbabilitySource(members, batch_size=8, seed=1)
    for number in (0, 3):
        batches = list(source.epoch(number))
        assert len(batches) == len(source)
        assert sorted(name for batch in batches for name in batch.ids) == sorted(members[0].ids)
        for batch, again in zip(batches[4:], source.epoch(number, 4), strict=True):
            assert batch.ids == again.ids and torch.equal(batch.images, again.images)
    assert [batch.ids for batch in source.epoch(0)] != [batch.ids for batch in source.epoch(1)]


def test_the_joint_loss_mixes_the_losses_of_ensemble_and_members() -> None:
    branches = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for _ in range(2)]
    graph = EndToEnd(branches, FusionHead(2, 3, width=0), train_branches=True)
    batch = Batch(torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]), tuple("abcde"))
    losses = [
        float(joint_objective(FusionConfig(aux_loss_weight=weight))(graph, batch)[0].detach())
        for weight in (0.0, 1.0, 0.25)
    ]
    ensemble, members, mixed = losses
    assert mixed == pytest.approx(0.75 * ensemble + 0.25 * members, rel=1e-5)
    logits = graph.members(batch.images)
    expected = sum(torch.nn.functional.cross_entropy(logits[:, index], batch.targets) for index in range(2)) / 2
    assert members == pytest.approx(float(expected.detach()), rel=1e-5)


def labelled_members(count: int = 90) -> list[Predictions]:
    labels = np.arange(count) % 3
    rows = [np.random.default_rng(seed).normal(size=(count, 3)) + 1.5 * np.eye(3)[labels] for seed in range(2)]
    ids = [f"image-{row}" for row in range(count)]
    return [Predictions.from_logits(values, ids=ids, classes=("a", "b", "c"), labels=labels) for values in rows]


def test_a_head_is_trained_on_predictions_of_any_origin() -> None:
    members = labelled_members()
    partly = [member.with_labels(np.where(np.arange(90) < 60, member.labels, -1)) for member in members]
    fusion = {"width": 16, "steps": 40, "folds": 3, "lr": 1e-2}
    result = combine(partly, method="e2e", fusion=fusion)
    assert isinstance(result, CombinedPredictions) and result.ensemble is not None
    document = result.to_dict()
    assert (document["method"], document["cross_fitted"], document["weights"]) == ("e2e", True, None)
    assert result.ensemble.scores.n == 60 and result.ensemble.scores.accuracy > 0.7
    unlabelled = result.predictions.take(np.arange(60, 90))
    expected = apply_head(result.head, partly).take(np.arange(60, 90))
    np.testing.assert_array_equal(unlabelled.probabilities, expected.probabilities)
    resubstituted = apply_head(result.head, partly).take(np.arange(60))
    assert not np.allclose(result.predictions.take(np.arange(60)).probabilities, resubstituted.probabilities)
    again = combine(partly, method="e2e", fusion=fusion)
    np.testing.assert_array_equal(again.predictions.probabilities, result.predictions.probabilities)
    with pytest.raises(ConfigError, match="learns from labels"):
        combine([member.with_labels(np.full(90, -1)) for member in members], method="e2e")


@pytest.mark.parametrize("validated", [True, False])
def test_training_in_memory_equals_training_with_checkpoints(tmp_path: Path, validated: bool) -> None:
    fitter = HeadFitter(FusionConfig(width=8, steps=25, batch_size=30, lr=3e-2), seed=3)
    sources = [ProbabilitySource(labelled_members(), batch_size=30, seed=seed) for seed in (3, 4)]
    config = TrainingConfig(stages=(StageConfig(lr=3e-2, steps=25, schedule="cosine"),), batch_size=30)
    results = []
    for kind in (Trainer, FusionTrainer):
        head = fitter.new_head(2, 3)
        validation = sources[1] if validated else None
        kind(head, sources[0], validation, config=config, folder=tmp_path / "folder").run()
        results.append(head.state_dict())
        files = sorted(path.name for path in (tmp_path / "folder").glob("*"))
        assert "last.ckpt" in files and "history.jsonl" in files  # those of the first training
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
