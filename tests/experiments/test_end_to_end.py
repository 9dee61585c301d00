from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fixtures.runs import OPTIONS, draw_folder

from tercet.config.run import FusionConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.end_to_end import EndToEndFitter, ProbabilitySource, joint_objective
from tercet.experiments.ensemble import combine
from tercet.experiments.fit_ensemble import read_members
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train

pytestmark = pytest.mark.usefixtures("alone")
HEAD = {"width": 32, "steps": 40, "folds": 3, "batch_size": 16}


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
def test_every_permitted_pair_of_regime_and_data(finished: Run, tmp_path: Path, regime: str, data: str) -> None:
    result = combine(
        [finished.path],
        ensemble_methods=["e2e"],
        output=str(tmp_path / "out"),
        fusion={**HEAD, "regime": regime, "data": data},
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
    same = [torch.equal(before[name], after[name]) for name in before]
    assert all(same) if regime != "joint" else not all(same)


@pytest.mark.parametrize(
    ("regime", "data"), [("frozen", "out-of-fold"), ("joint", "out-of-fold"), ("joint", "validation")]
)
def test_other_pairs_are_refused_with_the_reason(finished: Run, tmp_path: Path, regime: str, data: str) -> None:
    with pytest.raises(ConfigError, match=r"use (cached|train)"):
        combine([finished.path], output=str(tmp_path / "out"), fusion={"regime": regime, "data": data})


def test_the_shipped_end_to_end_bundle_repeats_its_predictions(finished: Run, tmp_path: Path, shapes: Path) -> None:
    for regime, data in (("cached", "validation"), ("joint", "train")):
        out = tmp_path / regime
        fusion = {**HEAD, "regime": regime, "data": data}
        plain = {"temperature": "none"}
        result = combine([finished.path], ensemble_methods=["e2e"], output=str(out), fusion=fusion, calibration=plain)
        stored = Predictions.load(out / "predictions" / "e2e-test.npz")
        said = result.bundle().predict([shapes / name for name in stored.ids])
        assert np.abs(said.probabilities - stored.probabilities).max() < 1e-5


def test_a_head_scored_by_cross_fitting_never_saw_the_row(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(finished.path)
    plan = Plan.load(run)
    members = read_members(run, ["small-cnn", "wide"], ("validation",))
    fusion = FusionConfig(width=8, steps=3, folds=3)
    fitter = EndToEndFitter(
        plan,
        plan.open_data(run),
        tuple(member.load() for member in members),
        {"validation": [member.predictions["validation"] for member in members]},
        fusion,
    )
    seen: list[set[str]] = []
    scored: list[set[str]] = []
    train_head, apply = EndToEndFitter._train, EndToEndFitter._apply

    def spy_train(self: Any, module: Any, source: Any, *rest: Any) -> None:
        seen.append(set(source.ids))
        train_head(self, module, source, *rest)

    def spy_apply(self: Any, head: Any, said: Any) -> Predictions:
        scored.append(set(said[0].ids))
        return apply(self, head, said)

    monkeypatch.setattr(EndToEndFitter, "_train", spy_train)
    monkeypatch.setattr(EndToEndFitter, "_apply", spy_apply)
    fused = fitter.fit()
    folds = list(zip(seen[:3], scored[:3], strict=True))
    assert all(not fitted & held_out for fitted, held_out in folds)
    assert set.union(*(held_out for _, held_out in folds)) == set(fused.validation.ids)
    assert seen[3] == set(fused.validation.ids)  # what is shipped learned from all of them


def test_out_of_fold_predictions_cover_every_training_row_once(finished: Run, tmp_path: Path) -> None:
    fusion = {**HEAD, "data": "out-of-fold"}
    combine([finished.path], ensemble_methods=["e2e"], output=str(tmp_path / "out"), fusion=fusion)
    members = read_members(RunFolder(finished.path), ["small-cnn", "row-gru"], ("validation",))
    table = Plan.load(RunFolder(finished.path)).open_data(RunFolder(finished.path)).table
    expected = {table.ids[row] for row in table.rows_of("train")}
    for member in members:
        said = member.predictions["out-of-fold"]
        assert set(said.ids) == expected and len(said) == len(expected)


def test_runs_on_the_same_data_can_be_fused(finished: Run, shapes: Path, tmp_path: Path) -> None:
    more = train(shapes, output=str(tmp_path / "more"), **{**OPTIONS, "seed": 5, "members": OPTIONS["members"][2:]})
    result = combine([finished.path, more.path], ensemble_methods=["average"], output=str(tmp_path / "out"))
    names = [row["name"] for row in result.metrics["members"]]
    assert len(names) == len(set(names)) == 4
    assert len(result.bundle().members) == 4


def test_runs_on_other_splits_or_data_cannot(finished: Run, shapes: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "members": OPTIONS["members"][2:]}
    other_split = train(shapes, output=str(tmp_path / "a"), data={"split_seed": 3}, **options)
    with pytest.raises(DataError, match="split-seed"):
        combine([finished.path, other_split.path], output=str(tmp_path / "out"))
    other_data = train(draw_folder(tmp_path / "data", count=14, seed=4), output=str(tmp_path / "b"), **options)
    with pytest.raises(DataError, match="other data"):
        combine([finished.path, other_data.path], output=str(tmp_path / "out"))


def test_probability_batches_are_a_pure_function_of_the_epoch() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    members = [Predictions.of(rows, labels=np.arange(50) % 3)] * 2
    source = ProbabilitySource(members, batch_size=8, seed=1)
    for number in (0, 3):
        whole = list(source.epoch(number))
        assert len(whole) == len(source)
        assert sorted(name for batch in whole for name in batch.ids) == sorted(members[0].ids)
        for batch, again in zip(whole[4:], source.epoch(number, 4), strict=True):
            assert batch.ids == again.ids and torch.equal(batch.images, again.images)
    assert [batch.ids for batch in source.epoch(0)] != [batch.ids for batch in source.epoch(1)]


def test_the_joint_loss_mixes_the_fused_and_the_members_own() -> None:
    from tercet.core.types import Batch
    from tercet.models.fusion_head import EndToEnd, FusionHead

    branches = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for _ in range(2)]
    graph = EndToEnd(branches, FusionHead(2, 3, width=0), train_branches=True)
    batch = Batch(torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]), tuple("abcde"))
    fused, own, both = (float(joint_objective(share)(graph, batch)[0].detach()) for share in (0.0, 1.0, 0.25))
    assert both == pytest.approx(0.75 * fused + 0.25 * own, rel=1e-5)
    logits = graph.members(batch.images)
    expected = sum(torch.nn.functional.cross_entropy(logits[:, index], batch.targets) for index in range(2)) / 2
    assert own == pytest.approx(float(expected.detach()), rel=1e-5)
