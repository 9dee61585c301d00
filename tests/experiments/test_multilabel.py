"""Multi-label training from the table to the bundle, and the benefit of the label decoder."""

import csv
import json
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures.runs import draw, one_core
from torch import nn

from tercet.config.model import LabelsConfig, ModelConfig
from tercet.config.run import DataConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, DataError, ModelError
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.run_folder import RunFolder
from tercet.core.types import InputSpec
from tercet.data.data_module import prepare_data
from tercet.data.image_cache import ImageCache
from tercet.data.in_memory import table_from_arrays
from tercet.data.loader import ImageLoader
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.multilabel import MultilabelRule, best_threshold
from tercet.experiments.ensemble import combine
from tercet.experiments.finalize_multilabel import finalize_multilabel
from tercet.experiments.plan import Plan
from tercet.experiments.task import multilabel_objective
from tercet.experiments.train import Run, train
from tercet.inference.evaluate import evaluate
from tercet.inference.predict import predict_files
from tercet.metrics.multilabel import score_multilabel, validation_multilabel_scores
from tercet.models.classifier import Classifier
from tercet.models.label_decoder import decode_labels
from tercet.models.layers import dense_layer
from tercet.training.trainer import Trainer

COLUMNS = {"label_columns": ["shape", "form", "framed"]}
DECODER = {"decoder": "cnn-rnn", "hidden_size": 16, "embedding_dim": 8}
MEMBERS = [
    {"name": "each", "model": "small-cnn"},
    {"name": "chain", "model": "small-cnn", "labels": DECODER},
]
OPTIONS = {"epochs": 10, "lr": 3e-3, "batch_size": 16, "threads": 1, "tensorboard": False}


def draw_table(folder: Path, count: int = 120, seed: int = 0) -> Path:
    """Draw shapes, some framed: two categorical columns, shape and form, and a column of zeros and ones, framed."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    lines = ["image,shape,form,framed"]
    for index in range(count):
        kind = ("disc", "square", "stroke")[index % 3]
        pixels = np.asarray(draw(kind, generator)).copy()
        framed = int(generator.integers(2))
        if framed:
            pixels[:2], pixels[-2:] = 255, 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{kind},{'round' if kind == 'disc' else 'angular'},{framed}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_table(tmp_path_factory.mktemp("multilabel") / "data")


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with one_core():
        output = str(tmp_path_factory.mktemp("multilabel") / "run")
        # so that an ensemble is shipped
        return train(images, members=MEMBERS, data=COLUMNS, fusion={"choose": "best"}, output=output, **OPTIONS)


def test_a_run_scores_members_and_ensembles(run: Run) -> None:
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(run.metrics)) and metrics["protocol"]["monitor"] == "o_f1"
    assert metrics["data"]["classes"] == [
        "form=angular",
        "form=round",
        "framed",
        "shape=disc",
        "shape=square",
        "shape=stroke",
    ]
    assert [row["name"] for row in metrics["members"]] == ["each", "chain"]
    assert [row["name"] for row in metrics["ensembles"]] == ["average", "vote"]
    for row in [*metrics["members"], *metrics["ensembles"]]:
        for split in ("validation", "test"):
            stored = MultilabelPredictions.load(run.path / "predictions" / f"{row['name']}-{split}.npz")
            assert score_multilabel(stored).to_dict() == row[split]
    best = max(row["validation"]["o_f1"] for row in metrics["ensembles"])
    assert next(row for row in metrics["ensembles"] if row["name"] == metrics["chosen"])["validation"]["o_f1"] == best
    assert max(row["test"]["o_f1"] for row in metrics["members"]) > 0.75
    assert metrics["calibration"] is None and "not calibrated" in run.report
    assert "O-F1" in run.report and "cross-fitted" in run.report and "shape=stroke" in run.report
    assert max(map(len, run.report.splitlines())) <= 100


def test_the_simplest_model_that_is_not_measurably_worse_is_shipped(run: Run, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    plan = Plan.load(folder)
    plan = replace(plan, fusion=replace(plan.fusion, choose="simplest"))
    metrics, report = finalize_multilabel(folder, plan)
    rows = {row["name"]: row["validation"] for row in [*metrics["members"], *metrics["ensembles"]]}
    choice = metrics["choice"]
    assert (choice["shipped"], choice["rule"]) == (metrics["chosen"], "simplest")
    assert rows[choice["best"]]["o_f1"] == max(row["o_f1"] for row in rows.values())
    difference = rows[choice["best"]]["o_f1"] - rows[choice["shipped"]]["o_f1"]
    assert choice["difference"] == pytest.approx(difference) and difference <= choice["standard_error"]
    assert f"Shipped: {choice['shipped']}" in report
    assert len(load_bundle(folder.path).members) == (1 if choice["shipped"] in ("each", "chain") else 2)
    requested = replace(plan, run=replace(plan.run, ensemble_methods=("vote",)))
    assert finalize_multilabel(folder, requested)[0]["chosen"] == "vote"


def test_the_bundle_repeats_the_test_predictions_of_the_run(run: Run, images: Path) -> None:
    for bundle, name in [(run.bundle(), run.metrics["chosen"])] + [
        (load_bundle(run.path / "members" / member / "bundle"), member) for member in ("each", "chain")
    ]:
        stored = MultilabelPredictions.load(run.path / "predictions" / f"{name}-test.npz")
        predictions = bundle.predict([images / sample for sample in stored.ids])
        assert isinstance(predictions, MultilabelPredictions) and bundle.name == name
        assert np.abs(predictions.scores - stored.scores).max() < 1e-4
        assert np.array_equal(predictions.chosen, stored.chosen)


def test_evaluate_finds_the_test_split_and_matches_labels_by_name(run: Run, images: Path, tmp_path: Path) -> None:
    config = DataConfig(label_columns=("shape", "form", "framed"))
    evaluation = evaluate(run.path, images, config=config)
    chosen = next(row for row in run.metrics["ensembles"] if row["name"] == run.metrics["chosen"])
    assert "the model has not seen" in evaluation.subset and evaluation.to_dict()["o_f1"] == chosen["test"]["o_f1"]
    assert [row["name"] for row in evaluation.to_dict()["members"]] == ["each", "chain"]
    outside = draw_table(tmp_path / "outside", count=12, seed=5)
    text = (outside / "labels.csv").read_text().replace("stroke", "blob")
    (outside / "labels.csv").write_text(text)
    other = evaluate(run.path, outside, config=config)
    assert other.missing == ("shape=stroke",) and other.extra == {"shape=blob": 4} and other.rows[0].scores.n == 12
    assert "shape=blob" in other.to_text()
    with pytest.raises(DataError, match="one class"):
        evaluate(run.path, outside, config=DataConfig(label_columns=("shape",)))


def test_predict_writes_label_sets(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    result = predict_files(
        run.path, [images / "0.png", tmp_path / "broken.png"], csv=str(tmp_path / "out.csv"), top_k=2
    )
    (row,) = result.to_dict()["images"]
    assert set(row["predicted"]) <= set(row["scores"]) and len(row["scores"]) >= 2
    assert "broken.png: UNREADABLE" in result.to_text()
    with open(tmp_path / "out.csv", newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert line["predicted"].split(" | ") == row["predicted"] and len(line) == 2 + 6


def test_a_resumed_run_gives_the_same_scores(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    (copy / "members" / "chain" / "member.json").unlink()
    for path in (copy / "predictions").glob("chain-*"):
        path.unlink()
    with one_core():
        again = train(resume=copy)
    for row, before in zip(again.metrics["members"], run.metrics["members"], strict=True):
        assert row["test"] == before["test"]


def test_a_bundle_with_a_changed_rule_is_not_loaded(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path / "bundle", tmp_path / "bundle"))
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(manifest.replace('"threshold"', '"treshold"', 1))
    with pytest.raises(ModelError):
        load_bundle(copy)
    with pytest.raises(ModelError, match="label"):
        run.bundle().predict_members(np.zeros((20, 20), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble_methods": ["average", "e2e"]}, "ensemble_methods e2e"),
        ({"monitor": "kappa"}, "monitor kappa"),
        ({"label_smoothing": 0.1}, "label_smoothing of each"),
        ({"class_weights": "balanced"}, "class_weights of each"),
        ({"head_init": "logistic"}, "head_init logistic of each"),
        ({"mixup": 0.2}, "mixup and cutmix of chain"),
        ({"tta": "flip"}, "tta flip"),
        ({"calibration": {"coverage": 0.9}}, "calibration.reject_risk and coverage"),
    ],
)
def test_single_label_options_are_an_error(options: dict, message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(images, members=MEMBERS, data=COLUMNS, output=str(tmp_path / "run"), **{**OPTIONS, **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"monitor": "o_f1"}, {"labels": DECODER}], ids=str)
def test_multilabel_options_need_multilabel_data(options: dict, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs multi-label data"):
        data = {"label_columns": ["shape"]}
        train(images, members=["small-cnn"], data=data, output=str(tmp_path / "run"), **{**OPTIONS, **options})


def test_only_training_reads_multilabel_data(images: Path) -> None:
    with pytest.raises(ConfigError, match="tercet train"):
        prepare_data(images, DataConfig(label_columns=("shape", "form")))


def test_single_label_options_of_predict_are_an_error(run: Run, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="test-time augmentation"):
        predict_files(run.path, [images / "0.png"], tta="flip")
    with pytest.raises(ConfigError, match="submission"):
        predict_files(run.path, [images / "0.png"], csv=str(tmp_path / "out.csv"), submission="sample.csv")


def test_multilabel_members_are_combined_within_one_run(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="within one run"):
        combine([run.path], output=str(tmp_path / "combined"))


# ------------------------------------------------------------------------------------------ benefit of the decoder


LAMPS = 5
LABELS = 2 * LAMPS - 1  # is lamp 1, ..., 5 lit, and is an odd number of the first 2, 3, 4, 5 lamps lit


def lamps(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of pixels and their labels.

    A linear layer can detect each lamp but not parity; a decoder can count the labels that it has emitted.
    """
    generator = np.random.default_rng(seed)
    lit = generator.random((count, LAMPS)) < 0.6
    odd = np.cumsum(lit, axis=1)[:, 1:] % 2 == 1
    pixels = np.clip(lit * 160 + 40 + generator.normal(0, 20, lit.shape), 0, 255).astype(np.uint8)
    return pixels[:, None], np.concatenate([lit, odd], axis=1).astype(np.int64)


def source(count: int, seed: int, *, shuffle: bool) -> ImageLoader:
    pixels, sets = lamps(count, seed)
    table = table_from_arrays(pixels)
    store, _ = ImageCache.decode(table, DataConfig())
    return ImageLoader(
        store,
        range(count),
        ids=table.ids,
        labels=sets,
        num_classes=LABELS,
        specs=[InputSpec(size=(1, LAMPS), channels=1)],
        batch_size=32,
        shuffle=shuffle,
    )


def linear_network() -> Classifier:
    torch.manual_seed(0)
    spec = InputSpec(size=(1, LAMPS), channels=1)
    head = nn.Sequential(OrderedDict({"classes": dense_layer(LAMPS, LABELS)}))
    return Classifier("linear", spec=spec, num_classes=LABELS, features=nn.Flatten(), head=head)


def overall_f1_of(network: Classifier, config: LabelsConfig, folder: Path) -> float:
    """Train, fit the threshold on validation if there is one, and return O-F1 on test images."""
    folder.mkdir()
    validation = source(200, 1, shuffle=False)
    counts = lamps(600, 0)[1].sum(axis=0)
    training = TrainingConfig(epochs=16, lr=2e-2, monitor="o_f1")
    Trainer(
        network,
        source(600, 0, shuffle=True),
        validation,
        config=training,
        folder=folder,
        objective=multilabel_objective(config, counts),
        scorer=validation_multilabel_scores,
    ).run()
    names = tuple(f"label-{index}" for index in range(LABELS))
    bundle = Bundle(names, (Member("member", network, ModelConfig()),), sets=MultilabelRule("single", (0.5,)))
    if config.decoder == "sigmoid":
        threshold = best_threshold(bundle.predict_member_labels(validation)[0], "o_f1")
        bundle = replace(bundle, sets=MultilabelRule("single", (threshold,)))
    return score_multilabel(bundle.predict_member_labels(source(400, 2, shuffle=False))[0]).o_f1


@pytest.mark.slow
def test_the_decoder_predicts_labels_that_depend_on_other_labels(tmp_path: Path) -> None:
    config = LabelsConfig(decoder="cnn-rnn", embedding_dim=8, hidden_size=24)
    no_memory = decode_labels(linear_network(), config)  # without the LSTM state it cannot count emitted labels
    torch.nn.init.zeros_(no_memory.get_parameter("head.classes.from_state.weight")).requires_grad_(False)
    independent = overall_f1_of(linear_network(), LabelsConfig(), tmp_path / "independent")
    without_state = overall_f1_of(no_memory, config, tmp_path / "without-state")
    decoder = overall_f1_of(decode_labels(linear_network(), config), config, tmp_path / "decoder")
    assert independent > 0.75  # the lamps alone
    assert decoder > max(independent, without_state) + 0.08
