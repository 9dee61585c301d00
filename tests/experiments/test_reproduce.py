import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.runs import one_core

from tercet.cli.main import main
from tercet.config.recipe import Recipe
from tercet.core.errors import ConfigError, StorageError, TercetError
from tercet.core.files import read_json
from tercet.core.predictions import Predictions
from tercet.core.run_folder import RunFolder
from tercet.core.yaml_io import dump_yaml
from tercet.experiments.plan import Plan
from tercet.experiments.reproduce import Reproduction, reproduce
from tercet.experiments.reproduce_steps import Overrides
from tercet.metrics.classification import score
from tercet.metrics.seed_comparison import compare_seeds

pytestmark = pytest.mark.usefixtures("alone")
QUICK: dict[str, Any] = {"lr": 3e-3, "batch_size": 16, "epochs": 2}
RECIPE: dict[str, Any] = {
    "title": "Shapes",
    "source": "nowhere",
    "differs": ["Everything does."],
    "scales": {
        "small": {
            "data": "not-there",
            "parts": {
                "nets": {
                    "verb": "train",
                    "options": {
                        "members": ["small-cnn", {"model": "row-gru", "hidden_size": 12, "num_layers": 1}],
                        "ensemble_methods": ["average", "pruned"],
                        **QUICK,
                    },
                },
                "fused": {
                    "verb": "ensemble",
                    "of": ["nets"],
                    "seeds": [0, 1],
                    "options": {"ensemble_methods": ["e2e"], "fusion": {"width": 16, "steps": 20}},
                },
                "grid": {
                    "verb": "compare",
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
        {"what": "elsewhere only"},
    ],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "shapes.yaml"
    path.write_text(dump_yaml(RECIPE))
    return path


@pytest.fixture(scope="module")
def done(recipe: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    with one_core():
        return reproduce(recipe, shapes, output=str(tmp_path_factory.mktemp("studies") / "s"), threads=1)


def rows(done: Reproduction) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in done.metrics["table"]}


def test_the_table_holds_what_the_runs_stored(done: Reproduction) -> None:
    average = Predictions.load(RunFolder(done.path / "parts/nets").predictions("average", "test"))
    row = rows(done)["average"]
    assert row["measured"] == score(average).accuracy
    assert row["difference"] == pytest.approx(row["measured"] - 0.5)
    assert (row["n"], row["sd"], row["images"], row["split"]) == (1, None, len(average), "test")
    assert row["low"] <= row["measured"] <= row["high"]


def test_repetitions_are_told_as_mean_and_spread(done: Reproduction) -> None:
    parts = [RunFolder(done.path / f"parts/fused-seed-{seed}") for seed in (0, 1)]
    found = [score(Predictions.load(part.predictions("e2e", "test"))).accuracy for part in parts]
    row = rows(done)["e2e"]
    assert (row["n"], row["low"]) == (2, None)
    assert row["measured"] == pytest.approx(np.mean(found))
    assert row["sd"] == pytest.approx(np.std(found, ddof=1))


def test_the_seeds_of_a_comparison_are_repetitions(done: Reproduction) -> None:
    network = read_json(done.path / "parts/grid/metrics.json")["networks"][0]
    row = rows(done)["two seeds"]
    assert (row["measured"], row["sd"], row["n"]) == (
        pytest.approx(network["test"]["macro_f1"]["mean"]),
        pytest.approx(network["test"]["macro_f1"]["sd"]),
        2,
    )


def test_a_ratio_divides_by_another_reading_of_the_part(done: Reproduction) -> None:
    members = {one["name"]: one for one in read_json(done.path / "parts/nets/metrics.json")["members"]}
    row = rows(done)["size of the GRU in CNNs"]
    assert row["measured"] == members["row-gru"]["parameters"] / members["small-cnn"]["parameters"]
    assert row["metric"] == "parameters, ratio"


def test_published_numbers_stand_there_without_a_measured_one_and_empty_rows_do_not(done: Reproduction) -> None:
    row = rows(done)["lost"]
    assert (row["published"], row["measured"], row["difference"]) == ("0.9 or so", None, None)
    assert "elsewhere only" not in rows(done)


def test_a_pair_is_tested_on_the_images_of_both_sides(done: Reproduction) -> None:
    average = Predictions.load(RunFolder(done.path / "parts/nets").predictions("average", "test"))
    fused = [
        Predictions.load(RunFolder(done.path / f"parts/fused-seed-{seed}").predictions("e2e", "test"))
        for seed in (0, 1)
    ]
    expected = compare_seeds(fused, [average, average]).to_dict()
    (found,) = done.metrics["tests"]
    assert {key: found[key] for key in expected} == expected


def test_the_files_say_the_same(done: Reproduction) -> None:
    assert json.loads((done.path / "metrics.json").read_text()) == done.metrics
    with open(done.path / "table.csv", newline="") as stream:
        written = {row["what"]: row for row in csv.DictReader(stream)}
    assert float(written["average"]["measured"]) == rows(done)["average"]["measured"]
    assert written["lost"]["measured"] == ""
    report = (done.path / "report.txt").read_text()
    assert report == done.report
    for word in ("average", "0.9 or so", "e2e against average", "Everything does.", "Images: "):
        assert word in report
    assert max(map(len, report.partition("parts:")[0].splitlines())) <= 80


def test_everything_that_was_measured_is_in_the_answer(done: Reproduction) -> None:
    names = {(row["part"], row["name"]) for row in done.metrics["measured"]}
    assert {("nets", "small-cnn"), ("nets", "chosen"), ("nets", "best"), ("nets", "pruned"), ("fused", "e2e")} <= names


def test_a_finished_study_is_not_done_again(done: Reproduction) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.path.glob("parts/*/metrics.json")}
    again = reproduce(resume=done.path)
    assert again.metrics["table"] == done.metrics["table"]
    assert {path: path.stat().st_mtime_ns for path in done.path.glob("parts/*/metrics.json")} == before


def test_parts_are_done_one_by_one_and_what_is_missing_is_said(recipe: Path, shapes: Path, tmp_path: Path) -> None:
    first = reproduce(recipe, shapes, parts=["grid"], dry_run=True, output=str(tmp_path / "s"), threads=1)
    assert first.metrics["missing"] == ["nets", "fused, seed 0"]
    assert "not done yet: nets, fused, seed 0" in first.report
    assert rows(first)["average"]["measured"] is None
    second = reproduce(resume=tmp_path / "s", parts=["nets"])
    assert second.metrics["missing"] == ["fused, seed 0"]
    assert rows(second)["average"]["measured"] is not None
    assert reproduce(resume=tmp_path / "s").metrics["missing"] == []


def test_a_part_that_was_stopped_is_continued_or_done_anew(done: Reproduction, tmp_path: Path) -> None:
    copy = tmp_path / "s"
    shutil.copytree(done.path, copy)
    for name in ("nets", "fused-seed-1"):  # the one goes on where it stopped, the other begins again
        (copy / "parts" / name / "metrics.json").unlink()
    shutil.rmtree(copy / "parts/nets/members/row-gru")
    shutil.rmtree(copy / "parts/fused-seed-1/predictions")
    kept = (copy / "parts/nets/members/small-cnn/member.json").stat().st_mtime_ns
    again = reproduce(resume=copy)
    assert again.metrics["missing"] == []
    assert (copy / "parts/nets/members/small-cnn/member.json").stat().st_mtime_ns == kept
    measured = {row["what"]: row["measured"] for row in again.metrics["table"]}
    assert measured == {row["what"]: row["measured"] for row in done.metrics["table"]}


def test_another_network_keeps_the_recipes_name(recipe: Path, shapes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("{model: row-rnn, hidden_size: 8, num_layers: 1}")
    found = reproduce(
        recipe,
        shapes,
        parts=["nets"],
        replace=[f"row-gru={other}"],
        output=str(tmp_path / "s"),
        dry_run=True,
        threads=1,
    )
    members = {member.name: member for member in Plan.load(RunFolder(tmp_path / "s/parts/nets")).members}
    assert members["row-gru"].network == "row-rnn"
    assert members["row-gru"].model.hidden_size == 8
    assert "In place of row-gru: row-rnn." in found.report


def test_a_dry_run_is_one_update_and_says_so(recipe: Path, shapes: Path, tmp_path: Path) -> None:
    found = reproduce(recipe, shapes, dry_run=True, output=str(tmp_path / "s"), threads=1)
    assert "DRY RUN" in found.report
    members = read_json(tmp_path / "s/parts/nets/metrics.json")["members"]
    assert [member["steps"] for member in members] == [1, 1]


def test_a_dry_run_puts_a_tiny_network_in_place_of_a_backbone() -> None:
    part = {
        "verb": "train",
        "options": {
            "members": [{"name": "big", "model": "resnet50", "weights": "w", "epochs": 40, "input": {"size": [299]}}],
            "stages": "paper",
            "data": {"limit": 9000, "val_fraction": 0.2},
        },
    }
    document = {"title": "t", "source": "s", "scales": {"paper": {"data": "digits", "parts": {"p": part}}}}
    setting = Overrides(dry_run=True).apply(Recipe.from_mapping("r", document).scales["paper"])
    options = setting.parts["p"].options
    (member,) = options["members"]
    assert (member["name"], member["model"], member["pretrained"]) == ("big", "test_resnet", False)
    assert "epochs" not in member and member["weights"] is None and member["input"]["size"] != [299]
    assert options["stages"] == [{"lr": 1e-4, "steps": 1}]
    assert options["data"]["val_fraction"] == 0.2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("no-such",), {}, "unknown recipe 'no-such'"),
        (("rows-vs-cn",), {}, "did you mean 'rows-vs-cnn'"),
        (("nowhere.yaml",), {}, "cannot read nowhere.yaml"),
        ((), {}, "name a recipe"),
        (("RECIPE",), {"scale": "paper"}, "has no scale paper (small)"),
        (("RECIPE",), {"parts": ["net"]}, "there is no 'net'"),
        (("RECIPE",), {"replace": ["small-cnn"]}, "not of the form NETWORK=OTHER"),
        (("RECIPE",), {"replace": ["smal-cnn=row-rnn"]}, "no network 'smal-cnn', did you mean 'small-cnn'"),
        (("RECIPE",), {"replace": ["small-cnn=nowhere.yaml"]}, "cannot read nowhere.yaml"),
        (("RECIPE",), {"replace": ["small-cnn=resnet5000"]}, "resnet5000"),
        (("RECIPE", "nowhere"), {}, "nowhere"),
    ],
)
def test_wrong_words_are_refused_and_leave_nothing(
    recipe: Path, tmp_path: Path, arguments: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    words = [str(recipe) if word == "RECIPE" else word for word in arguments]
    with pytest.raises(TercetError) as caught:
        reproduce(*words, output=str(tmp_path / "s"), **options)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("s/parts/*"))


def test_a_resume_takes_nothing_else_and_only_a_study(done: Reproduction, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not accept scale"):
        reproduce(resume=done.path, scale="paper")
    with pytest.raises(StorageError, match="not created by `tercet reproduce`"):
        reproduce(resume=done.path / "parts/nets")
    with pytest.raises(StorageError, match="not a run folder"):
        reproduce(resume=tmp_path)


def test_a_reading_that_nothing_measured_is_refused_with_the_names_there_are(shapes: Path, tmp_path: Path) -> None:
    document = {
        "title": "t",
        "source": "s",
        "scales": {
            "small": {
                "data": str(shapes),
                "parts": {"nets": {"verb": "train", "options": {"members": ["small-cnn"], **QUICK}}},
            }
        },
        "rows": [{"what": "x", "small": "nets/smal-cnn"}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(document))
    with pytest.raises(ConfigError, match="nothing called 'smal-cnn', did you mean 'small-cnn'"):
        reproduce(path, dry_run=True, output=str(tmp_path / "s"), threads=1)


def test_prediction_files_are_fused_without_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        table = generator.dirichlet([1, 1], size=6).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", table)
    document = {
        "title": "t",
        "source": "s",
        "scales": {
            "small": {
                "data": str(tmp_path),
                "parts": {"files": {"verb": "ensemble", "files": ["a.npy", "b.npy"], "runs_of_classes": [2, 4]}},
                "pairs": [{"what": "average against pruned", "a": "files/average", "b": "files/pruned"}],
            }
        },
        "rows": [{"what": "average", "small": "files/average"}, {"what": "a", "small": "files/a"}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(document))
    found = reproduce(path, output=str(tmp_path / "s"))
    a, b = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    labels = np.array([0, 0, 1, 1, 1, 1])
    assert rows(found)["average"]["measured"] == pytest.approx(np.mean((a + b).argmax(1) == labels))
    assert rows(found)["a"]["measured"] == pytest.approx(np.mean(a.argmax(1) == labels))
    assert found.metrics["tests"][0]["n"] == 6
    document["scales"]["small"]["parts"]["files"]["runs_of_classes"] = [2, 5]  # type: ignore[index]
    path.write_text(dump_yaml(document))
    with pytest.raises(TercetError, match="6"):
        reproduce(path, output=str(tmp_path / "t"))


def test_the_command_line_lists_shows_and_runs(
    recipe: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce"]) == 0
    assert "rows-vs-cnn" in capsys.readouterr().out
    assert main(["reproduce", str(recipe), "--show"]) == 0
    assert capsys.readouterr().out == recipe.read_text()
    words = ["reproduce", str(recipe), str(shapes), "--dry-run", "--parts", "nets", "--output", str(tmp_path / "s")]
    assert main([*words, "--threads", "1", "--json", "--data.val-fraction", "0.3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["missing"] == ["fused, seed 0", "grid"]
    assert "Option data.val_fraction is 0.3." in document["differs"]
    validation = read_json(tmp_path / "s/parts/nets/metrics.json")["members"][0]["validation"]
    assert validation["n"] == pytest.approx(0.3 * 102, abs=1)  # the others are test
    assert main(["reproduce", "--resume", str(tmp_path / "s"), "--parts", "grid"]) == 0
    assert "not done yet: fused, seed 0" in capsys.readouterr().out
