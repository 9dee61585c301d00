import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

from tercet.cli.main import main
from tercet.config.recipe import Recipe, load_recipe
from tercet.core.errors import ConfigError, StorageError, TercetError
from tercet.core.files import read_json
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.yaml_io import dump_yaml
from tercet.experiments.plan import Plan
from tercet.experiments.reproduce import Reproduction, reproduce
from tercet.experiments.reproduce_results import MeasuredResult, table_rows, table_text
from tercet.experiments.reproduce_steps import Overrides
from tercet.metrics.classification import score
from tercet.metrics.significance import compare_seeds

pytestmark = pytest.mark.usefixtures("alone")
QUICK: dict[str, Any] = {"lr": 3e-3, "batch_size": 16, "epochs": 2, "tensorboard": False}
GRU = {"model": "row-gru", "hidden_size": 12, "num_layers": 1}
FUSION = {"width": 16, "steps": 5, "folds": 2}
RECIPE: dict[str, Any] = {
    "title": "Shapes",
    "source": "nowhere",
    "differs": ["Everything does."],
    "scales": {
        "small": {
            "data": "not-there",
            "steps": {
                "nets": {
                    "command": "train",
                    "options": {"members": ["small-cnn", GRU], "ensemble_methods": ["average", "pruned"], **QUICK},
                },
                "fused": {
                    "command": "ensemble",
                    "of": ["nets"],
                    "seeds": [0, 1],
                    "options": {"ensemble_methods": ["e2e"], "fusion": FUSION},
                },
                "grid": {
                    "command": "compare",
                    "options": {"backbones": ["small-cnn"], "seeds": 2, **QUICK},
                },
            },
            "pairs": [{"what": "e2e against average", "a": "fused/e2e", "b": "nets/average"}],
        }
    },
    "rows": [
        {"what": "average", "published": 0.5, "source": "table 1", "small": "nets/average"},
        {"what": "e2e", "small": "fused/e2e"},
        {"what": "two seeds", "metric": "macro_f1", "published": 0.25, "small": "grid/small-cnn"},
        {"what": "size of the GRU in CNNs", "metric": "parameters", "per": "small-cnn", "small": "nets/row-gru"},
        {"what": "lost", "published": "0.9 or so"},
        {"what": "other scale only"},
    ],
}


def write_recipe(path: Path, steps: dict[str, Any], rows: list[dict[str, Any]], **setting: Any) -> Path:
    document = {"title": "t", "source": "s", "scales": {"small": {"steps": steps, **setting}}, "rows": rows}
    path.write_text(dump_yaml(document))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "shapes.yaml"
    path.write_text(dump_yaml(RECIPE))
    return path


@pytest.fixture(scope="module")
def reproduction(recipe: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """Reproduce on other images than those of the recipe."""
    with one_core():
        return reproduce(recipe, shapes, output=str(tmp_path_factory.mktemp("reproductions") / "s"), threads=1)


def rows(result: Reproduction) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in result.metrics["table"]}


def stored(result: Reproduction, step: str, name: str) -> Predictions:
    return Predictions.load(RunFolder(result.path / "steps" / step).predictions(name, "test"))


def test_measured_numbers_are_those_of_the_runs(reproduction: Reproduction) -> None:
    average = stored(reproduction, "nets", "average")
    row = rows(reproduction)["average"]
    assert row["measured"] == score(average).accuracy
    assert (row["data"], row["difference"]) == ("shapes", None)  # published for other images
    assert (row["n"], row["sd"], row["images"], row["split"]) == (1, None, len(average), "test")
    assert row["low"] <= row["measured"] <= row["high"]


def test_differences_are_given_on_the_images_of_the_source_only(reproduction: Reproduction, recipe: Path) -> None:
    report = " ".join(reproduction.report.split())
    assert "measured on shapes" in report and "published numbers are of other images" in report
    result, loaded = (
        MeasuredResult({"accuracy": 0.75, "macro_f1": 0.5}, "test", Path("a.npz")),
        load_recipe(str(recipe)),
    )
    measurements = {source: [result] for row in loaded.rows if (source := row.result_source("small"))}
    for replaced, data, difference in ((None, "not-there", 0.25), ("x/photos.zip", "photos.zip", None)):
        row = table_rows(loaded, "small", measurements, replaced=replaced)[0]
        assert (row["data"], row["difference"]) == (data, difference)
        assert f"measured on {data}" in table_text("", [row])


def test_seeds_of_a_step_are_aggregated(reproduction: Reproduction) -> None:
    accuracies = [score(stored(reproduction, f"fused-seed-{seed}", "e2e")).accuracy for seed in (0, 1)]
    row = rows(reproduction)["e2e"]
    assert (row["n"], row["low"]) == (2, None)
    assert row["measured"] == pytest.approx(np.mean(accuracies))
    assert row["sd"] == pytest.approx(np.std(accuracies, ddof=1))


def test_seeds_of_a_comparison_are_aggregated(reproduction: Reproduction) -> None:
    network = read_json(reproduction.path / "steps/grid/metrics.json")["networks"][0]
    row = rows(reproduction)["two seeds"]
    macro_f1 = network["test"]["macro_f1"]
    assert (row["measured"], row["sd"]) == (pytest.approx(macro_f1["mean"]), pytest.approx(macro_f1["sd"]))
    assert row["n"] == 2


def test_a_ratio_divides_by_another_result_of_the_step(reproduction: Reproduction) -> None:
    document = read_json(reproduction.path / "steps/nets/metrics.json")
    members = {member["name"]: member for member in document["members"]}
    row = rows(reproduction)["size of the GRU in CNNs"]
    assert row["measured"] == members["row-gru"]["parameters"] / members["small-cnn"]["parameters"]
    assert row["metric"] == "parameters, ratio"


def test_published_numbers_need_no_measurement_and_empty_rows_are_dropped(reproduction: Reproduction) -> None:
    row = rows(reproduction)["lost"]
    assert (row["published"], row["measured"], row["difference"]) == ("0.9 or so", None, None)
    assert "other scale only" not in rows(reproduction)


def test_pairs_are_tested_on_common_images(reproduction: Reproduction) -> None:
    average = stored(reproduction, "nets", "average")
    fused = [stored(reproduction, f"fused-seed-{seed}", "e2e") for seed in (0, 1)]
    expected = compare_seeds(fused, [average, average]).to_dict()
    (test,) = reproduction.metrics["tests"]
    assert {key: test[key] for key in expected} == expected


def test_files_have_the_same_content_as_the_result(reproduction: Reproduction) -> None:
    assert json.loads((reproduction.path / "metrics.json").read_text()) == reproduction.metrics
    with open(reproduction.path / "table.csv", newline="") as stream:
        table = {row["what"]: row for row in csv.DictReader(stream)}
    assert float(table["average"]["measured"]) == rows(reproduction)["average"]["measured"]
    assert table["lost"]["measured"] == ""
    report = (reproduction.path / "report.txt").read_text()
    assert report == reproduction.report
    for text in ("average", "0.9 or so", "e2e against average", "Everything does.", "Images: "):
        assert text in report
    assert max(map(len, report.partition("steps:")[0].splitlines())) <= 80


def test_all_measured_results_are_in_the_metrics(reproduction: Reproduction) -> None:
    names = {(row["step"], row["name"]) for row in reproduction.metrics["measured"]}
    assert {("nets", "small-cnn"), ("nets", "chosen"), ("nets", "best"), ("nets", "pruned"), ("fused", "e2e")} <= names


def test_a_finished_reproduction_is_not_repeated(reproduction: Reproduction) -> None:
    before = {path: path.stat().st_mtime_ns for path in reproduction.path.glob("steps/*/metrics.json")}
    again = reproduce(resume=reproduction.path)
    assert again.metrics["table"] == reproduction.metrics["table"]
    assert {path: path.stat().st_mtime_ns for path in reproduction.path.glob("steps/*/metrics.json")} == before


def test_steps_can_be_run_separately_from_the_command_line(
    recipe: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "s"
    arguments = ["reproduce", str(recipe), str(shapes), "--dry-run", "--steps", "nets", "--output", str(folder)]
    assert main([*arguments, "--threads", "1", "--json", "--data.val-fraction", "0.3"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["missing"] == ["fused, seed 0", "grid"]
    assert "Option data.val_fraction is 0.3." in first["differs"]
    members = read_json(folder / "steps/nets/metrics.json")["members"]
    assert members[0]["validation"]["n"] == pytest.approx(0.3 * 102, abs=1)  # the other images are test images
    assert [member["steps"] for member in members] == [1, 1]  # a dry run
    assert main(["reproduce", "--resume", str(folder), "--steps", "grid"]) == 0
    report = capsys.readouterr().out
    assert "DRY RUN" in report and "not done yet: fused, seed 0" in report
    assert reproduce(resume=folder).metrics["missing"] == []


def test_stopped_steps_are_resumed_or_repeated(reproduction: Reproduction, tmp_path: Path) -> None:
    copy = tmp_path / "s"
    shutil.copytree(reproduction.path, copy)
    for name in ("nets", "fused-seed-1"):  # the training is resumed, the ensemble repeated
        (copy / "steps" / name / "metrics.json").unlink()
    shutil.rmtree(copy / "steps/nets/members/row-gru")
    shutil.rmtree(copy / "steps/fused-seed-1/predictions")
    finished = copy / "steps/nets/members/small-cnn/member.json"
    before = finished.stat().st_mtime_ns
    again = reproduce(resume=copy)
    assert again.metrics["missing"] == []
    assert finished.stat().st_mtime_ns == before
    measured = {row["what"]: row["measured"] for row in again.metrics["table"]}
    assert measured == {row["what"]: row["measured"] for row in reproduction.metrics["table"]}


def test_a_replaced_network_keeps_its_name(recipe: Path, shapes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("{model: row-rnn, hidden_size: 8, num_layers: 1}")
    folder = tmp_path / "s"
    options = {"steps": ["nets"], "replace": [f"row-gru={other}"], "dry_run": True, "threads": 1}
    result = reproduce(recipe, shapes, output=str(folder), **options)
    members = {member.name: member for member in Plan.load(RunFolder(folder / "steps/nets")).members}
    assert members["row-gru"].network == "row-rnn"
    assert members["row-gru"].model.hidden_size == 8
    assert "In place of row-gru: row-rnn." in result.report


def test_a_dry_run_replaces_backbones_by_a_tiny_network() -> None:
    member = {"name": "big", "model": "resnet50", "weights": "w", "epochs": 40, "input": {"size": [299]}}
    data = {"limit": 9000, "val_fraction": 0.2}
    step = {"command": "train", "options": {"members": [member], "stages": "paper", "data": data}}
    document = {"title": "t", "source": "s", "scales": {"paper": {"data": "digits", "steps": {"p": step}}}}
    setting = Overrides(dry_run=True).apply(Recipe.from_mapping("r", document).scales["paper"])
    options = setting.steps["p"].options
    (tiny,) = options["members"]
    assert (tiny["name"], tiny["model"], tiny["pretrained"]) == ("big", "test_resnet", False)
    assert "epochs" not in tiny and tiny["weights"] is None and tiny["input"]["size"] != [299]
    assert options["stages"] == [{"lr": 1e-4, "steps": 1}]
    assert options["data"]["val_fraction"] == 0.2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("rows-vs-cn",), {}, "unknown recipe 'rows-vs-cn', did you mean 'rows-vs-cnn'"),
        (("nowhere.yaml",), {}, "cannot read nowhere.yaml"),
        ((), {}, "name a recipe"),
        (("RECIPE",), {"scale": "paper"}, "has no scale paper (small)"),
        (("RECIPE",), {"steps": ["net"]}, "there is no 'net'"),
        (("RECIPE",), {"replace": ["small-cnn"]}, "not of the form NETWORK=OTHER"),
        (("RECIPE",), {"replace": ["smal-cnn=row-rnn"]}, "no network 'smal-cnn', did you mean 'small-cnn'"),
        (("RECIPE",), {"replace": ["small-cnn=nowhere.yaml"]}, "cannot read nowhere.yaml"),
        (("RECIPE",), {"replace": ["small-cnn=resnet5000"]}, "resnet5000"),
        (("RECIPE", "nowhere"), {}, "nowhere"),
    ],
)
def test_invalid_arguments_raise_and_run_no_step(
    recipe: Path, tmp_path: Path, arguments: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    positional = [str(recipe) if argument == "RECIPE" else argument for argument in arguments]
    with pytest.raises(TercetError) as caught:
        reproduce(*positional, output=str(tmp_path / "s"), **options)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("s/steps/*"))


def test_resume_needs_a_reproduction_and_accepts_no_other_options(reproduction: Reproduction, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="remove scale"):
        reproduce(resume=reproduction.path, scale="paper")
    with pytest.raises(StorageError, match="tercet train --resume"):
        reproduce(resume=reproduction.path / "steps/nets")
    with pytest.raises(StorageError, match="not a run folder"):
        reproduce(resume=tmp_path)


def test_results_of_a_cross_validation(shapes: Path, tmp_path: Path) -> None:
    options = {"members": ["small-cnn", GRU], "folds": 2, "ensemble_methods": ["average"], **QUICK}
    names = ("small-cnn", "average", "chosen", "fold 1", "fold 2: row-gru")
    path = write_recipe(
        tmp_path / "folds.yaml",
        {"folds": {"command": "crossval", "options": options}},
        [{"what": name, "small": f"folds/{name}"} for name in names],
        data=str(shapes),
    )
    result = reproduce(path, dry_run=True, output=str(tmp_path / "s"), threads=1)
    document = read_json(tmp_path / "s/steps/folds/metrics.json")
    table = rows(result)
    assert set(table) == set(names) and all(row["measured"] is not None for row in table.values())
    assert table["chosen"]["measured"] == document["pooled"]["accuracy"]
    assert table["fold 1"]["measured"] == document["folds"][0]["accuracy"]
    assert {row["split"] for row in table.values()} == {"held-out folds", "held-out fold"}


def test_an_unknown_result_is_an_error_with_a_suggestion(shapes: Path, tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path / "mine.yaml",
        {"nets": {"command": "train", "options": {"members": ["row-gru"], **QUICK}}},
        [{"what": "x", "small": "nets/row-gur"}],
        data=str(shapes),
    )
    with pytest.raises(ConfigError, match="no result 'row-gur', did you mean 'row-gru'"):
        reproduce(path, dry_run=True, output=str(tmp_path / "s"), threads=1)


def test_prediction_files_are_combined_without_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", generator.dirichlet([1, 1], size=6).astype(np.float32))
    step = {"command": "ensemble", "files": ["a.npy", "b.npy"], "runs_of_classes": [2, 4]}
    table = [{"what": "average", "small": "files/average"}, {"what": "a", "small": "files/a"}]
    pairs = [{"what": "average against pruned", "a": "files/average", "b": "files/pruned"}]
    path = write_recipe(tmp_path / "mine.yaml", {"files": step}, table, data=str(tmp_path), pairs=pairs)
    result = reproduce(path, output=str(tmp_path / "s"))
    a, b = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    labels = np.array([0, 0, 1, 1, 1, 1])
    assert rows(result)["average"]["measured"] == pytest.approx(np.mean((a + b).argmax(1) == labels))
    assert rows(result)["a"]["measured"] == pytest.approx(np.mean(a.argmax(1) == labels))
    assert result.metrics["tests"][0]["n"] == 6
    write_recipe(path, {"files": {**step, "runs_of_classes": [2, 5]}}, table, data=str(tmp_path), pairs=pairs)
    with pytest.raises(TercetError, match="6"):
        reproduce(path, output=str(tmp_path / "t"))


def test_recipes_are_listed_and_printed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    assert "rows-vs-cnn" in capsys.readouterr().out
    assert main(["reproduce", str(recipe), "--show"]) == 0
    assert capsys.readouterr().out == recipe.read_text()
