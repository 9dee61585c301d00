import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, ModelError, StorageError
from tercet.core.prediction_files import read_predictions
from tercet.data.seen_images import DIGEST_KEYS
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.train import Run
from tercet.inference.evaluate import evaluate
from tercet.inference.predict import predict, predict_files
from tercet.metrics.classification import score
from tests.fixtures.runs import draw, draw_folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images that were not used in training."""
    return draw_folder(tmp_path_factory.mktemp("outside") / "data", count=8, seed=77)


# ------------------------------------------------------------------------------------------ predict


def test_runs_bundles_and_loaded_bundles_predict_the_same(finished: Run, outside: Path) -> None:
    expected = predict(finished.path, outside)
    for bundle in (finished.path / "bundle", str(finished.path), load_bundle(finished.path)):
        result = predict(bundle, outside)
        assert result.ids == expected.ids and np.array_equal(result.probabilities, expected.probabilities)


def test_predictions_do_not_depend_on_the_batch_size(finished: Run, outside: Path) -> None:
    single, batched = (predict(finished.path, outside, batch_size=size).probabilities for size in (1, 100))
    assert np.abs(single - batched).max() < 1e-5


def test_predictions_are_better_than_chance(finished: Run, outside: Path) -> None:
    result = predict(finished.path, outside)
    pairs = zip(result.ids, result.predicted_names, strict=True)
    assert np.mean([Path(name).parent.name == label for name, label in pairs]) > 0.6


def test_unreadable_files_are_listed_and_skipped(finished: Run, outside: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outside, tmp_path / "data"))
    (folder / "broken.png").write_bytes(b"broken")
    result = predict_files(finished.path, [folder], csv=str(tmp_path / "out.csv"), top_k=2, batch_size=5)
    document = result.to_dict()
    assert len(document["images"]) == 24
    assert [Path(bad["id"]).name for bad in document["unreadable"]] == ["broken.png"]
    assert "broken.png: UNREADABLE" in result.to_text()
    assert len(result.to_text().splitlines()) == 25
    table = read_predictions(tmp_path / "out.csv")
    assert table.ids == result.predictions.ids
    assert np.array_equal(table.probabilities, result.predictions.probabilities)


def test_the_most_probable_classes_come_first(finished: Run, outside: Path) -> None:
    for top, count in ((1, 1), (2, 2), (50, 3)):
        for image in predict_files(finished.path, [outside / "disc"], top_k=top).to_dict()["images"]:
            values = list(image["probabilities"].values())
            assert len(values) == count and values == sorted(values, reverse=True)
            assert next(iter(image["probabilities"])) == image["predicted"]


def test_no_readable_images_are_an_error(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    for paths in ([tmp_path / "absent.png"], [], [tmp_path / "broken.png"]):
        with pytest.raises(DataError) as error:
            predict_files(finished.path, paths)
        assert error.value.exit_code == 3
    with pytest.raises(DataError, match=r"broken\.png"):
        predict_files(finished.path, [tmp_path / "broken.png"])


def test_a_csv_path_that_is_not_writable_is_refused(finished: Run, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StorageError):
        predict_files(finished.path, [outside], csv=str(tmp_path / "file" / "out.csv"))


def test_a_csv_file_never_replaces_an_input(finished: Run, outside: Path, tmp_path: Path) -> None:
    image = Path(shutil.copy(next(outside.rglob("*.png")), tmp_path / "cat.png"))
    (tmp_path / "link.csv").symlink_to(image)
    before = image.read_bytes()
    for name in ("cat.png", "link.csv"):
        with pytest.raises(StorageError, match="one of the input files"):
            predict_files(finished.path, [tmp_path], csv=str(tmp_path / name))
    with pytest.raises(StorageError, match="is a folder"):
        predict_files(finished.path, [image], csv=str(tmp_path))
    assert image.read_bytes() == before


def test_a_missing_bundle_is_reported_before_missing_images(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        predict_files(tmp_path, ["absent.png"])
    with pytest.raises(ModelError):
        evaluate(tmp_path, "no-such-data")


def test_an_unknown_device_is_refused(finished: Run, outside: Path) -> None:
    for function in (predict, evaluate):
        with pytest.raises(ConfigError, match="device"):
            function(finished.path, outside, device="gpu")


def test_control_characters_in_file_names_are_escaped(finished: Run, tmp_path: Path) -> None:
    names = ["new\nline.png", "esc\x1b[31m.png", "émeu 🐦.png", "[bold]b.png", "a:smile:.png", "bad\nfile.png"]
    for index, name in enumerate(names):
        draw("disc", np.random.default_rng(index)).save(tmp_path / name)
    (tmp_path / names[-1]).write_bytes(b"broken")
    result = predict_files(finished.path, [tmp_path])
    lines = result.to_text().splitlines()
    assert len(lines) == len(names)
    assert not any("\x1b" in line for line in lines)
    assert {Path(image["id"]).name for image in result.to_dict()["images"]} == set(names[:-1])
    assert any("[bold]b.png" in line for line in lines) and any("a:smile:.png" in line for line in lines)


# ------------------------------------------------------------------------------------------ evaluate


def test_all_images_of_other_data_are_scored(finished: Run, outside: Path) -> None:
    evaluation = evaluate(finished.path, outside)
    assert evaluation.subset == "all images"
    assert evaluation.rows[0].scores.n == 24
    predictions = predict(finished.path, [outside / name for name in evaluation.predictions.ids])
    assert np.abs(predictions.probabilities - evaluation.predictions.probabilities).max() < 1e-5
    assert score(evaluation.predictions) == evaluation.rows[0].scores


def test_members_are_scored_with_their_ensemble(finished: Run, outside: Path) -> None:
    evaluation = evaluate(finished.path, outside)
    document = evaluation.to_dict()
    members = {row["name"] for row in document["members"]}
    assert members == {member.name for member in load_bundle(finished.path).members}
    assert (document["name"], document["kind"]) == (finished.metrics["chosen"], "ensemble")
    single = evaluate(finished.path / "members" / "wide", outside).to_dict()
    assert (single["name"], single["kind"], single["members"]) == ("wide", "member", [])
    assert single["accuracy"] == next(row for row in document["members"] if row["name"] == "wide")["accuracy"]
    json.dumps(document, allow_nan=False)


def test_the_test_split_of_the_data_is_scored(finished: Run, outside: Path, tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 3)):
        for kind in ("disc", "square", "stroke"):
            (tmp_path / split / kind).mkdir(parents=True)
            for index in range(count):
                shutil.copy(outside / kind / f"{kind}-{index}.png", tmp_path / split / kind)
    evaluation = evaluate(finished.path, tmp_path)
    assert evaluation.rows[0].scores.n == 9
    assert "test split of the data" in evaluation.subset


def test_rows_without_a_label_are_not_scored(finished: Run, outside: Path) -> None:
    rows = [(str(path.relative_to(outside)), path.parent.name) for path in sorted(outside.rglob("*.png"))]
    with open(outside / "labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [("file", "label"), *((name, kind if row % 2 else "") for row, (name, kind) in enumerate(rows))]
        )
    try:
        evaluation = evaluate(finished.path, outside / "labels.csv")
    finally:
        (outside / "labels.csv").unlink()
    assert evaluation.rows[0].scores.n == 12


def test_unreadable_images_are_listed_and_too_many_are_an_error(finished: Run, outside: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outside, tmp_path / "data"))
    (folder / "disc" / "broken.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"broken\.png"):
        evaluate(finished.path, folder, config=DataConfig(max_bad_fraction=0))
    evaluation = evaluate(finished.path, folder)
    assert evaluation.rows[0].scores.n == 24
    assert evaluation.to_dict()["unreadable"] == ["disc/broken.png"]
    assert "broken.png" in evaluation.to_text()
    clean = evaluate(finished.path, outside)
    assert evaluation.rows[0].scores == clean.rows[0].scores  # labels and images still match


def test_data_of_one_class_can_be_scored(finished: Run, outside: Path, tmp_path: Path) -> None:
    shutil.copytree(outside / "disc", tmp_path / "data" / "disc")
    evaluation = evaluate(finished.path, tmp_path / "data")
    assert evaluation.rows[0].scores.n == 8
    assert evaluation.missing == ("square", "stroke")
    json.dumps(evaluation.to_dict(), allow_nan=False)
    assert evaluation.to_text()


@pytest.mark.parametrize("options", [{"of_a_later_version": 1}, {"val_fraction": "half"}, None])
def test_unknown_split_options_of_a_bundle_without_digests_are_refused(
    finished: Run, shapes: Path, tmp_path: Path, options: Any
) -> None:
    bundle = finished.bundle()
    data = {key: value for key, value in bundle.card["data"].items() if key not in DIGEST_KEYS} | {"options": options}
    replace(bundle, card={**bundle.card, "data": data}).save(tmp_path / "later")
    with pytest.raises(ModelError, match="evaluate it on other images"):
        evaluate(tmp_path / "later", shapes)


def test_data_without_any_class_of_the_bundle_are_refused(finished: Run, outside: Path, tmp_path: Path) -> None:
    for kind in ("disc", "square"):
        shutil.copytree(outside / kind, tmp_path / "data" / f"not-{kind}")
    with pytest.raises(DataError, match="matched by name") as error:
        evaluate(finished.path, tmp_path / "data")
    assert error.value.exit_code == 3


def test_control_characters_in_class_names_are_escaped(finished: Run, outside: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outside, tmp_path / "data"))
    (folder / "square").rename(folder / "[red]x\n<b>")
    evaluation = evaluate(finished.path, folder)
    assert evaluation.extra == {"[red]x\n<b>": 8}
    assert r"[red]x\n<b>" in evaluation.to_text()


def to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def resize(image: Image.Image) -> Image.Image:
    return image.resize((33, 27))


@pytest.mark.parametrize("change", [to_rgb, resize])
def test_images_of_another_mode_or_size_than_in_training(
    finished: Run, outside: Path, tmp_path: Path, change: Callable[[Image.Image], Image.Image]
) -> None:
    folder = Path(shutil.copytree(outside, tmp_path / "data"))
    for path in folder.rglob("*.png"):
        change(Image.open(path)).save(path)
    changed, original = evaluate(finished.path, folder), evaluate(finished.path, outside)
    assert changed.rows[0].scores.n == 24
    if change is to_rgb:
        assert np.abs(changed.predictions.probabilities - original.predictions.probabilities).max() < 1e-4
