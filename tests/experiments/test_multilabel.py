"""Sets of labels from the table to the bundle, and what the label decoder is good for."""

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
from tercet.core.types import InputSpec
from tercet.data.data_module import prepare_data
from tercet.data.image_cache import ImageCache
from tercet.data.load import table_from_arrays
from tercet.data.loader import ImageLoader
from tercet.ensemble.bundle import Bundle, Member, load_bundle
from tercet.ensemble.multilabel import MultilabelRule, best_threshold
from tercet.experiments.ensemble import combine
from tercet.experiments.multilabel import multilabel_objective
from tercet.experiments.train import Run, train
from tercet.inference.predict import evaluate, predict_files
from tercet.metrics.multilabel import score_multilabel, validation_multilabel_scores
from tercet.models.classifier import Classifier
from tercet.models.heads import dense_layer
from tercet.models.label_decoder import decode_labels
from tercet.training.trainer import Trainer

COLUMNS = {"label_columns": ["shape", "form", "framed"]}
DECODER = {"decoder": "cnn-rnn", "hidden_size": 16, "embedding_dim": 8}
MEMBERS = [
    {"name": "each", "model": "small-cnn"},
    {"name": "chain", "model": "small-cnn", "labels": DECODER},
]
OPTIONS = {"epochs": 12, "lr": 3e-3, "batch_size": 16, "threads": 1, "tensorboard": False}


def draw_table(folder: Path, count: int = 120, seed: int = 0) -> Path:
    """Draw shapes, some in a frame; every shape has a form, and a frame is a column of zeros and ones."""
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
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_table(tmp_path_factory.mktemp("sets") / "data")


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with one_core():
        output = str(tmp_path_factory.mktemp("sets") / "run")
        return train(pictures, members=MEMBERS, data=COLUMNS, output=output, **OPTIONS)


def test_a_run_measures_members_and_ensembles(run: Run) -> None:
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
    assert "O-F1" in run.report and "cross-fitted" in run.report and "shape=stroke" in run.report
    assert max(map(len, run.report.splitlines())) <= 100


def test_the_bundle_repeats_the_runs_test_predictions(run: Run, pictures: Path) -> None:
    for bundle, name in [(run.bundle(), run.metrics["chosen"])] + [
        (load_bundle(run.path / "members" / member / "bundle"), member) for member in ("each", "chain")
    ]:
        stored = MultilabelPredictions.load(run.path / "predictions" / f"{name}-test.npz")
        said = bundle.predict([pictures / sample for sample in stored.ids])
        assert isinstance(said, MultilabelPredictions) and bundle.name == name
        assert np.abs(said.scores - stored.scores).max() < 1e-4
        assert np.array_equal(said.chosen, stored.chosen)


def test_evaluate_finds_the_held_out_rows_again(run: Run, pictures: Path, tmp_path: Path) -> None:
    config = DataConfig(label_columns=("shape", "form", "framed"))
    evaluation = evaluate(run.path, pictures, config=config)
    chosen = next(row for row in run.metrics["ensembles"] if row["name"] == run.metrics["chosen"])
    assert "held out" in evaluation.subset and evaluation.to_dict()["o_f1"] == chosen["test"]["o_f1"]
    assert [row["name"] for row in evaluation.to_dict()["members"]] == ["each", "chain"]
    outside = draw_table(tmp_path / "outside", count=12, seed=5)
    text = (outside / "labels.csv").read_text().replace("stroke", "blob")
    (outside / "labels.csv").write_text(text)
    other = evaluate(run.path, outside, config=config)
    assert other.missing == ("shape=stroke",) and other.extra == {"shape=blob": 4} and other.rows[0].scores.n == 12
    assert "shape=blob" in other.to_text()
    with pytest.raises(DataError, match="one class an image"):
        evaluate(run.path, outside, config=DataConfig(label_columns=("shape",)))


def test_predict_tells_sets(run: Run, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    result = predict_files(
        run.path, [pictures / "0.png", tmp_path / "broken.png"], csv=str(tmp_path / "out.csv"), top_k=2
    )
    (image,) = result.to_dict()["images"]
    assert set(image["predicted"]) <= set(image["scores"]) and len(image["scores"]) >= 2
    assert "broken.png: UNREADABLE" in result.to_text()
    with open(tmp_path / "out.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["predicted"].split(" | ") == image["predicted"] and len(row) == 2 + 6


def test_a_resumed_run_ends_with_the_same_answers(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    (copy / "members" / "chain" / "member.json").unlink()
    shutil.rmtree(copy / "members" / "chain" / "checkpoints")
    for path in (copy / "predictions").glob("chain-*"):
        path.unlink()
    with one_core():
        again = train(resume=copy)
    for row, before in zip(again.metrics["members"], run.metrics["members"], strict=True):
        assert row["test"] == before["test"]


def test_a_changed_rule_is_noticed(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path / "bundle", tmp_path / "bundle"))
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(manifest.replace('"threshold"', '"treshold"', 1))
    with pytest.raises(ModelError):
        load_bundle(copy)
    with pytest.raises(ModelError, match="sets of labels"):
        run.bundle().predict_members(np.zeros((20, 20), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble_methods": ["average", "e2e"]}, "ensemble_methods e2e needs probabilities of one class"),
        ({"monitor": "kappa"}, "monitor kappa is for one class an image"),
        ({"label_smoothing": 0.1}, "label_smoothing of each"),
        ({"class_weights": "balanced"}, "class_weights of each"),
        ({"mixup": 0.2}, "mixup and cutmix of chain"),
        ({"tta": "flip"}, "tta flip averages"),
    ],
)
def test_what_is_for_one_class_is_refused(options: dict, message: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(pictures, members=MEMBERS, data=COLUMNS, output=str(tmp_path / "run"), **{**OPTIONS, **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"monitor": "o_f1"}, {"labels": DECODER}], ids=str)
def test_what_is_for_sets_is_refused(options: dict, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs sets of labels"):
        data = {"label_columns": ["shape"]}
        train(pictures, members=["small-cnn"], data=data, output=str(tmp_path / "run"), **{**OPTIONS, **options})


def test_other_work_than_training_refuses_sets(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="learned with tercet train"):
        prepare_data(pictures, DataConfig(label_columns=("shape", "form")))


def test_what_needs_one_class_is_refused_by_the_bundle(run: Run, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="test-time augmentation"):
        predict_files(run.path, [pictures / "0.png"], tta="flip")
    with pytest.raises(ConfigError, match="submission names one class"):
        predict_files(run.path, [pictures / "0.png"], csv=str(tmp_path / "out.csv"), submission="sample.csv")


def test_members_are_fused_where_they_are_trained(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name all in one run"):
        combine([run.path], output=str(tmp_path / "fused"))


# ------------------------------------------------------------------------------------------ what the decoder is for


LAMPS = 5
LABELS = 2 * LAMPS - 1  # which lamps are lit, and whether an odd number of the first 2, 3, 4, 5 is


def lamps(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of pixels and their labels.

    Every lamp is seen by itself. No linear layer can tell odd from even, but the labels that were named can be counted.
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
    """Train, fit the threshold on validation where there is one to fit, and return O-F1 on other images."""
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
    bundle = Bundle(names, (Member("one", network, ModelConfig()),), sets=MultilabelRule("single", (0.5,)))
    if config.decoder == "sigmoid":
        threshold = best_threshold(bundle.predict_member_labels(validation)[0], "o_f1")
        bundle = replace(bundle, sets=MultilabelRule("single", (threshold,)))
    return score_multilabel(bundle.predict_member_labels(source(400, 2, shuffle=False))[0]).o_f1


def test_labels_that_follow_from_others_are_told_by_the_decoder(tmp_path: Path) -> None:
    config = LabelsConfig(decoder="cnn-rnn", embedding_dim=8, hidden_size=24)
    deaf = decode_labels(linear_network(), config)  # its LSTM is not heard: it knows what was named, but cannot count
    silenced = deaf.get_parameter("head.classes.from_state.weight")
    torch.nn.init.zeros_(silenced).requires_grad_(False)
    alone = overall_f1_of(linear_network(), LabelsConfig(), tmp_path / "alone")
    without = overall_f1_of(deaf, config, tmp_path / "without")
    chained = overall_f1_of(decode_labels(linear_network(), config), config, tmp_path / "chained")
    assert alone > 0.75  # what the pixels show is told by both
    assert chained > max(alone, without) + 0.08
