"""Combining and scoring prediction files with `ensemble`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.cli.main import main
from tercet.core.errors import ConfigError, DataError
from tercet.core.prediction_files import read_predictions, write_csv
from tercet.core.predictions import Predictions
from tercet.ensemble.combine import average
from tercet.experiments.ensemble import combine
from tercet.experiments.ensemble_files import CombinedPredictions
from tercet.metrics.classification import score
from tercet.metrics.significance import compare

CLASSES = ("ant", "bee", "cow", "doe")
METRICS = {"accuracy", "accuracy_low", "accuracy_high", "macro_f1", "kappa", "balanced_accuracy", "log_loss", "ece"}
METHODS = ("average", "pruned", "vote", "weighted", "greedy")


def truth(count: int = 60) -> np.ndarray:
    return np.arange(count) * 7 % len(CLASSES)


def probabilities_of(seed: int, skill: float, count: int = 60) -> np.ndarray:
    """Return probabilities (N 4); the larger `skill`, the more accurate."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (count, len(CLASSES)))
    logits[np.arange(count), truth(count)] += skill
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


def member(seed: int, skill: float, *, labels: bool = True) -> Predictions:
    ids = [f"image-{row}" for row in range(60)]
    return Predictions.of(probabilities_of(seed, skill), ids=ids, classes=CLASSES, labels=truth() if labels else None)


def combined(files: list[Any], *, method: str | None = None, **options: Any) -> CombinedPredictions:
    """Combine prediction files by one method."""
    methods = {} if method is None else {"ensemble_methods": [method]}
    result = combine(files, **methods, **options)
    assert isinstance(result, CombinedPredictions)
    return result


@pytest.fixture
def arrays(tmp_path: Path) -> list[str]:
    """Write three arrays without ids, as in competitions, and their labels."""
    for index, skill in enumerate((1.0, 2.0, 1.5)):
        np.save(tmp_path / f"model-{index}.npy", probabilities_of(index, skill).astype(np.float32))
    np.save(tmp_path / "labels.npy", truth())
    return [str(tmp_path / f"model-{index}.npy") for index in range(3)]


def test_average_is_the_mean_of_the_files(arrays: list[str], tmp_path: Path) -> None:
    result = combined(arrays, labels=tmp_path / "labels.npy")
    mean = np.mean([np.load(path).astype(float) for path in arrays], axis=0)
    assert np.allclose(result.predictions.probabilities, mean, atol=1e-6)
    document = result.to_dict()
    assert [row["name"] for row in document["members"]] == ["model-0", "model-1", "model-2"]
    for row in [*document["members"], document["ensemble"]]:
        assert row.keys() >= METRICS
    assert document["ensemble"]["accuracy"] == pytest.approx((mean.argmax(1) == truth()).mean())
    for row, path in zip(document["members"], arrays, strict=True):
        assert row["accuracy"] == pytest.approx((np.load(path).argmax(1) == truth()).mean())
    json.dumps(document, allow_nan=False)


def test_the_comparison_is_with_the_best_file(arrays: list[str], tmp_path: Path) -> None:
    result = combined(arrays, labels=tmp_path / "labels.npy")
    best = max(result.members, key=lambda row: row.scores.accuracy)
    document = result.to_dict()["comparison"]
    assert document["against"] == best.name == result.best
    assert result.ensemble is not None
    assert document["difference"] == pytest.approx(result.ensemble.scores.accuracy - best.scores.accuracy)
    assert 0 <= document["p_value"] <= 1


@pytest.mark.parametrize("form", ["npy", "lines", "csv"])
def test_labels_are_read_from_every_format(arrays: list[str], tmp_path: Path, form: str) -> None:
    names = [str(index) for index in truth()]
    path = tmp_path / {"npy": "labels.npy", "lines": "labels.txt", "csv": "labels.csv"}[form]
    if form == "lines":
        path.write_text("\n".join(names) + "\n")
    elif form == "csv":
        rows = [f"{row},{name}" for row, name in enumerate(names)]
        path.write_text("id,label\n" + "\n".join(reversed(rows)) + "\n")  # by id, in any order
    document = combined(arrays, labels=path).to_dict()
    assert document["ensemble"] == combined(arrays, labels=tmp_path / "labels.npy").to_dict()["ensemble"]


def write_mixed(folder: Path, *, labels: bool) -> list[Path]:
    """Write three members with ids as `.npz` and CSV, each in a different order."""
    first, second, third = member(0, 1.0, labels=labels), member(1, 2.0, labels=labels), member(2, 1.5, labels=labels)
    first.save(folder / "a.npz")
    order = np.random.default_rng(5).permutation(60)
    write_csv(second.take(order), folder / "b.csv")
    swapped = Predictions(CLASSES[::-1], CLASSES[::-1], np.eye(4), np.arange(4))  # reversed classes
    third.aligned_to(Predictions.of(np.full((60, 4), 0.25), ids=third.ids, classes=swapped.classes)).save(
        folder / "c.npz"
    )
    return [folder / name for name in ("a.npz", "b.csv", "c.npz")]


def test_files_with_different_formats_and_orders_are_aligned(tmp_path: Path) -> None:
    files = write_mixed(tmp_path, labels=True)
    result = combined(files)
    expected = average([member(0, 1.0), member(1, 2.0), member(2, 1.5)])
    assert result.predictions.ids == expected.ids
    assert np.allclose(result.predictions.probabilities, expected.probabilities)
    assert result.ensemble is not None and result.ensemble.scores == score(expected)


def test_labels_may_be_in_any_file(tmp_path: Path) -> None:
    labelled, *others = (member(0, 1.0), member(1, 2.0, labels=False), member(2, 1.5, labels=False))
    for order in ([labelled, *others], [*others, labelled]):
        for method in METHODS:
            result = combined(order, method=method)
            assert result.ensemble is not None and len(result.members) == 3
    scores = [combined(order).ensemble for order in ([labelled, *others], [*others, labelled])]
    assert scores[0] is not None and scores[1] is not None
    assert scores[0].scores.accuracy == scores[1].scores.accuracy


def test_labels_by_position_follow_the_first_file(tmp_path: Path) -> None:
    files = write_mixed(tmp_path, labels=False)
    np.save(tmp_path / "labels.npy", truth())
    result = combined(files, labels=tmp_path / "labels.npy")
    expected = average([member(0, 1.0), member(1, 2.0), member(2, 1.5)])
    assert result.ensemble is not None and result.ensemble.scores == score(expected)
    assert result.members[1].scores == score(member(1, 2.0))


def test_rows_without_a_label_are_combined_but_not_scored(tmp_path: Path) -> None:
    partly = truth().copy()
    partly[::3] = -1
    files = [member(seed, 1.5, labels=False).with_labels(partly) for seed in range(2)]
    result = combined(files)
    assert result.ensemble is not None and result.ensemble.scores.n == 40
    assert len(result.predictions) == 60
    fitted = combined(files, method="weighted")
    assert fitted.ensemble is not None and fitted.ensemble.scores.n == 40
    assert fitted.comparison is not None and fitted.comparison.n == 40
    assert len(fitted.predictions) == 60  # with weights fitted on the labelled rows
    unknown = fitted.predictions.take(partly == -1).probabilities
    assert np.allclose(unknown, fitted.combiner.apply(files).take(partly == -1).probabilities)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_file_is_scored(arrays: list[str], tmp_path: Path, method: str) -> None:
    result = combined(arrays[1:2], method=method, labels=tmp_path / "labels.npy")
    document = result.to_dict()
    assert document["comparison"] is None
    assert document["ensemble"]["accuracy"] == document["members"][0]["accuracy"]
    assert document["ensemble"]["n"] == 60
    assert "0." in result.to_text()


@pytest.mark.parametrize("method", METHODS)
def test_fitted_methods_need_labels(arrays: list[str], method: str) -> None:
    if method in ("weighted", "greedy"):
        with pytest.raises(ConfigError, match="--labels") as error:
            combined(arrays, method=method)
        assert error.value.exit_code == 2
        return
    document = combined(arrays, method=method).to_dict()
    assert document["ensemble"] is None and document["comparison"] is None
    assert document["members"] == [{"name": f"model-{index}"} for index in range(3)]
    assert document["samples"] == 60 and document["cross_fitted"] is False


@pytest.mark.parametrize("method", METHODS)
def test_fitted_methods_are_scored_by_cross_fitting(arrays: list[str], tmp_path: Path, method: str) -> None:
    result = combined(arrays, method=method, labels=tmp_path / "labels.npy")
    document = result.to_dict()
    fitted = method in ("weighted", "greedy")
    assert document["cross_fitted"] is fitted
    assert (document["weights"] is not None) == fitted
    assert ("cross-fitted" if fitted else "nothing fitted") in result.to_text()
    if fitted:
        assert sum(document["weights"]) == pytest.approx(1)
        assert "weights:" in result.to_text()


def test_cross_fitted_scores_of_noise_are_no_better_than_chance() -> None:
    """Weights fitted and scored on the same rows of twenty random files would look good."""
    files = [Predictions.of(probabilities_of(seed, 0.0, 200), labels=truth(200)) for seed in range(20)]
    result = combined(files, method="greedy")
    resubstituted = score(result.combiner.apply(files))
    assert result.ensemble is not None
    assert result.ensemble.scores.accuracy < resubstituted.accuracy
    assert result.ensemble.scores.accuracy < 0.36  # chance is 0.25


def test_files_with_equal_names_get_distinct_names(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        member(ord(folder), 1.0).save(tmp_path / folder / "test.npz")
    paths = [tmp_path / "x" / "test.npz", tmp_path / "y" / "test.npz"]
    assert [row.name for row in combined(paths).members] == [str(path) for path in paths]
    names = [row.name for row in combined([paths[0], paths[0], paths[0]]).members]
    assert len(set(names)) == 3


def test_files_and_predictions_can_be_mixed(arrays: list[str]) -> None:
    result = combined([arrays[0], Predictions.of(probabilities_of(1, 2.0))])
    assert result.names == ("model-0", "predictions-2")


def test_ties_and_keep_are_passed_to_the_method() -> None:
    rows = np.array([[[0.6, 0.3, 0.1]], [[0.1, 0.9, 0.0]]])
    files = [Predictions.of(row, labels=[1]) for row in rows]
    assert combined(files, method="vote").predictions.predicted.tolist() == [0]  # lowest index
    assert combined(files, method="vote", ties="mean").predictions.predicted.tolist() == [1]
    assert combined(files, method="pruned").predictions.probabilities[0, 2] == 0
    assert combined(files, method="pruned", keep=3).predictions.probabilities[0, 2] > 0


@pytest.mark.parametrize("extension", [".npz", ".csv"])
def test_a_saved_result_can_be_read_again(arrays: list[str], tmp_path: Path, extension: str) -> None:
    result = combined(arrays, labels=tmp_path / "labels.npy")
    result.save(tmp_path / f"average{extension}")
    again = read_predictions(tmp_path / f"average{extension}")
    assert again.ids == result.predictions.ids
    assert np.array_equal(again.probabilities, result.predictions.probabilities)
    assert np.array_equal(again.labels, truth())


def test_other_file_extensions_are_an_error(arrays: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.npz or \.csv"):
        combined(arrays).save(tmp_path / "average.xlsx")
    assert not (tmp_path / "average.xlsx").exists()


def test_incompatible_files_are_an_error(arrays: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", probabilities_of(9, 1.0, 59))
    np.save(tmp_path / "narrow.npy", np.full((60, 3), 1 / 3))
    np.save(tmp_path / "logits.npy", np.random.default_rng(0).normal(0, 3, (60, 4)))
    np.save(tmp_path / "labels-59.npy", truth(59))
    for files, labels, message in (
        ([arrays[0], tmp_path / "short.npy"], None, "samples"),
        ([arrays[0], tmp_path / "narrow.npy"], None, "classes"),
        ([tmp_path / "logits.npy"], None, "probabilities"),
        ([tmp_path / "absent.npy"], None, r"absent\.npy"),
        (arrays, tmp_path / "labels-59.npy", "59"),
        (arrays, tmp_path / "absent-labels.npy", "absent-labels"),
    ):
        with pytest.raises(DataError, match=message) as error:
            combined(files, labels=labels)
        assert error.value.exit_code == 3


def test_no_files_are_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        combined([])


def test_unknown_methods_are_an_error(arrays: list[str]) -> None:
    with pytest.raises(ConfigError, match="median"):
        combined(arrays, method="median")


@settings(max_examples=15, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True),
    count=st.integers(2, 30),
    method=st.sampled_from(METHODS),
    data=st.data(),
)
def test_any_files_give_strict_json_and_proper_probabilities(
    seeds: list[int], count: int, method: str, data: st.DataObject
) -> None:
    labels = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))  # possibly a single class
    files = [Predictions.of(probabilities_of(seed, 1.0, count), labels=labels) for seed in seeds]
    result: CombinedPredictions = combined(files, method=method)
    assert np.allclose(result.predictions.probabilities.sum(1), 1)
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.to_text()
    if len(files) > 1:
        position = [row.name for row in result.members].index(str(result.best))
        again = compare(result.predictions, files[position])
        assert result.comparison is not None and result.comparison.difference == again.difference


# ------------------------------------------------------------------------------------------ from the command line


def test_the_command_writes_the_scored_predictions(
    arrays: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    labels = str(tmp_path / "labels.npy")
    options = ["--ensemble-methods", "weighted", "--labels", labels, "--output", str(out)]
    assert main(["ensemble", *arrays, *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= {"members", "ensemble", "comparison", "cross_fitted"}
    with open(out, newline="") as stream:
        rows = list(csv.DictReader(stream))
    accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert accuracy == pytest.approx(document["ensemble"]["accuracy"])


def test_wrong_options_are_reported_before_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--output", "average.xlsx"], ["--keep", "0"]):
        assert main(["ensemble", str(tmp_path / "absent.npy"), *options]) == 2
        assert options[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.npy", "run"], "not both: a.npy is a file, run is a run folder"),
        (["run", "--ties=mean", "--keep=2"], "keep, ties: only for prediction files"),
        (["a.npy", "--fusion.width", "8"], "fusion.width: only for runs"),
        (["a.npy", "--ensemble-methods", "e2e", "--fusion.regime", "frozen"], "with regime cached, data validation"),
        (["a.npy", "--ensemble-methods", "vote,average"], "take one method"),
    ],
)
def test_options_of_the_other_kind_of_inputs_are_an_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ensemble", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
