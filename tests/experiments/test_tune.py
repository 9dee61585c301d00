"""Complete searches on small images: results, pruning, failures, invalid options, interruption and resume."""

import csv
import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.experiments import test_interruption as stopping
from tests.fixtures.runs import one_core

from tercet.cli.command import find_command
from tercet.cli.main import main
from tercet.config.experiments import TUNE
from tercet.core.errors import ConfigError, DataError, DivergedError, StorageError, TercetError
from tercet.core.history import History
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.experiments import tune_folder as tune_log
from tercet.experiments.train import train
from tercet.experiments.tune import Tuning, tune
from tercet.experiments.tune_folder import SearchFolder, TrialLog, sample_points
from tercet.experiments.tune_study import SearchStudy

start, data = stopping.start, stopping.data  # fixtures: child processes, and images of 12 x 12 pixels
SPACE = {
    "lr": {"low": 1e-3, "high": 3e-2, "log": True},
    "hidden_size": {"low": 4, "high": 12, "step": 4},
    "optimizer": ["adam", "sgd"],
    "data.class_balanced_sampling": [True, False],
}
OPTIONS: dict[str, Any] = {
    "members": ["row-lstm"],
    "num_layers": 1,
    "hidden_size": 8,
    "head_hidden_dim": 6,
    "lr": 3e-3,
    "batch_size": 16,
    "epochs": 3,
    "seed": 3,
    "tensorboard": False,
}
UNSET = ("num_layers", "hidden_size", "head_hidden_dim", "lr", "epochs")
TRIALS = 8
ARGUMENTS = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items() if name != "members"]
ARGUMENTS += ["--members", "row-lstm", "--trials", str(TRIALS)]


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(dump_yaml(SPACE))
    return path


@pytest.fixture(scope="module")
def tuning(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    with one_core():
        output = str(tmp_path_factory.mktemp("studies") / "study")
        return tune(data, space=SPACE, trials=TRIALS, output=output, **OPTIONS)


def outcomes(path: Path) -> list[dict[str, Any]]:
    """Return the trials without their times."""
    rows: list[dict[str, Any]] = json.loads((path / "metrics.json").read_text())["trials"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ------------------------------------------------------------------------------------------ results


def test_trials_are_written_as_json_csv_and_text(tuning: Tuning) -> None:
    trials = tuning.metrics["trials"]
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    assert trials[0]["options"] == {
        "lr": 3e-3,
        "hidden_size": 8,
        "optimizer": "adam",
        "data.class_balanced_sampling": False,
    }
    for trial in trials:
        options = trial["options"]
        assert 1e-3 <= options["lr"] <= 3e-2 and options["hidden_size"] in (4, 8, 12)
    assert json.loads((tuning.path / "metrics.json").read_text()) == tuning.metrics
    rows = list(csv.DictReader((tuning.path / "trials.csv").read_text().splitlines()))
    assert [row["hidden_size"] for row in rows] == [str(trial["options"]["hidden_size"]) for trial in trials]
    assert (tuning.path / "report.txt").read_text() == tuning.report
    assert max(map(len, tuning.report.splitlines()[:-2])) <= 80
    best = tuning.metrics["best"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    assert best["score"] == max(trial["score"] for trial in complete) >= trials[0]["score"]
    assert f"* {best['number']}" in tuning.report and "--config" in tuning.report


def test_the_best_configuration_reproduces_its_score(tuning: Tuning, data: Path, tmp_path: Path) -> None:
    with one_core():
        assert main(["train", str(data), "--config", str(tuning.best), "--output", str(tmp_path / "run")]) == 0
    (member,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["members"]
    best = tuning.metrics["best"]
    scores = {name: value for name, value in member["best"].items() if name not in ("stage", "epoch")}
    assert scores == best["scores"]
    config = read_mapping(tuning.best)
    assert {key: config[key] for key in best["options"]} == best["options"]


def test_trials_keep_their_history_but_no_weights(tuning: Tuning) -> None:
    files = {path.name for path in (tuning.path / "trials").rglob("*") if path.is_file()}
    assert files == {"plan.json", "trial.json", "train.log", "history.jsonl", "member.json"}
    trial = SearchFolder(tuning.path).trial(0)
    assert len(History.load(trial.member("row-lstm").path / "history.jsonl")) == 3


def test_trials_share_the_decoded_images(tuning: Tuning) -> None:
    assert len(list(tuning.path.rglob("images"))) == 1


# ------------------------------------------------------------------------------------------ interruption and resume


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
def test_a_resumed_search_equals_an_uninterrupted_one(
    number: signal.Signals,
    tuning: Tuning,
    data: Path,
    space_file: Path,
    tmp_path: Path,
    start: stopping.Start,
    alone: None,
) -> None:
    study = tmp_path / "study"
    process = start("tune", data, "--space", space_file, *ARGUMENTS, "--output", study)
    process.until(lambda: (study / "trials/0001/plan.json").exists())
    process.kill(number)
    assert process.wait() == (-9 if number is signal.SIGKILL else 128 + number), process.stderr()
    assert not (study / "best.yaml").exists()
    with open(study / "study.journal", "a") as journal:
        journal.write('{"op_code":4,"wor')  # a line truncated by a full disk
    (study / "study.journal.lock").symlink_to(study / "study.journal")
    assert main(["tune", "--resume", str(study)]) == 0
    assert outcomes(study) == outcomes(tuning.path)
    assert read_mapping(study / "best.yaml") == read_mapping(tuning.best)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_parallel_trials_can_be_stopped_and_resumed(
    data: Path, space_file: Path, tmp_path: Path, start: stopping.Start, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    process = start("tune", data, "--space", space_file, *ARGUMENTS, "--output", study, cores=2)
    process.until(lambda: (study / "trials/0001/trial.json").exists())
    process.kill(signal.SIGTERM)
    assert process.wait() == 143
    assert f"continue with --resume {study}" in process.stderr().replace("\n", " ")
    with one_core():
        assert main(["tune", "--resume", str(study), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [trial["number"] for trial in document["trials"]] == list(range(TRIALS))
    assert {trial["state"] for trial in document["trials"]} <= {"complete", "pruned"}


def test_resume_can_increase_the_number_of_trials(data: Path, tmp_path: Path, alone: None) -> None:
    study = tmp_path / "study"
    options = {**OPTIONS, "epochs": 1}
    first = tune(data, space=SPACE, trials=2, output=str(study), pruner="none", **options)
    longer = tune(resume=study, trials=4)
    assert longer.metrics["trials"][:2] == first.metrics["trials"] and len(longer.metrics["trials"]) == 4
    assert tune(resume=study).metrics == longer.metrics
    with pytest.raises(ConfigError, match="4 trials exist already"):
        tune(resume=study, trials=3)
    with pytest.raises(ConfigError, match="remove seed"):
        tune(resume=study, seed=1)


# ------------------------------------------------------------------------------------------ pruned and failed trials


def test_bad_trials_are_pruned(data: Path, tmp_path: Path, alone: None) -> None:
    """All learning rates but one are too small: pruning starts with the fifth trial, and never stops the first."""
    space = {"lr": [1e-2, 1e-12, 1e-13, 1e-14]}
    options = {**OPTIONS, "lr": 1e-2, "epochs": 4, "monitor": "loss"}
    tuning = tune(data, space=space, trials=9, output=str(tmp_path / "study"), **options)
    trials = tuning.metrics["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned and all(trial["epochs"] < 4 and trial["number"] > 3 for trial in pruned)
    assert all(trial["options"]["lr"] < 1e-2 for trial in pruned)
    assert tuning.metrics["best"]["options"]["lr"] == 1e-2
    assert all(trial["epochs"] == 4 for trial in trials if trial["state"] == "complete")
    assert "pruned" in tuning.report


@pytest.mark.parametrize(("pruner", "prunes"), [("median", True), ("hyperband", None), ("none", False)])
def test_pruners(pruner: str, prunes: bool | None, data: Path, tmp_path: Path) -> None:
    parsed = TUNE.parse_object({**OPTIONS, "epochs": 9})
    search = SearchStudy.make(str(data), parsed, SPACE, trials=20, pruner=pruner)
    log = TrialLog(tmp_path / "journal", search)

    def report(number: int, score: float, epochs: int) -> list[bool]:
        """Report epochs one by one, and return whether the trial is pruned after each."""
        pruned = []
        for epoch in range(epochs):
            log.report(number, [{"accuracy": score}] * (epoch + 1))
            pruned.append(log.is_pruned(number))
        return pruned

    for _ in range(5):
        number = log.propose()
        assert not any(report(number, 0.9, 9)[:-1])
        log.finish(number, 0.9)
    worse = [log.propose() for _ in range(4)]
    pruned = [any(report(number, 0.1, 3)) for number in worse]
    assert set(pruned) == {prunes} if prunes is not None else True in pruned
    log = TrialLog(tmp_path / "journal", search)  # as in another process
    log.report(worse[0], [{"accuracy": 0.7}] * 3)  # these epochs have been reported already
    assert log.running() == worse


def test_failed_trials_do_not_stop_the_search(data: Path, tmp_path: Path, alone: None) -> None:
    space = {"lr": [3e-3, 1e38], "batch_size": [4, 16], "micro_batches": [1, 8]}
    options = {**OPTIONS, "epochs": 1}
    tuning = tune(data, space=space, trials=12, output=str(tmp_path / "study"), pruner="none", **options)
    failed = [trial for trial in tuning.metrics["trials"] if trial["state"] == "failed"]
    diverged = [trial for trial in failed if "the loss is" in trial["reason"]]
    invalid = [trial for trial in failed if "micro_batches must lie between" in trial["reason"]]
    assert diverged and invalid and len(diverged) + len(invalid) == len(failed) < 11
    assert all(trial["options"]["lr"] == 1e38 for trial in diverged)
    assert tuning.metrics["best"]["options"]["lr"] == 3e-3
    assert "failed: " in tuning.report


def test_trials_with_non_finite_scores_fail(data: Path, tmp_path: Path, alone: None) -> None:
    """With one step per epoch the training loss is finite, but the updated network is not."""
    options = {**OPTIONS, "batch_size": 64, "optimizer": "sgd", "epochs": 1}
    space = {"lr": [3e-3, 1e38]}
    tuning = tune(data, space=space, trials=5, output=str(tmp_path / "study"), pruner="none", **options)
    by_rate = {trial["options"]["lr"]: trial for trial in tuning.metrics["trials"]}
    assert by_rate[3e-3]["state"] == "complete"
    assert by_rate[1e38]["state"] == "failed" and "not finite" in by_rate[1e38]["reason"]


def test_a_search_without_a_complete_trial_raises_with_the_reason(data: Path, tmp_path: Path, alone: None) -> None:
    options = {**OPTIONS, "lr": 1e38}
    with pytest.raises(TercetError, match="no trial completed: the loss is") as caught:
        tune(data, space={"hidden_size": [4, 8]}, trials=2, output=str(tmp_path / "study"), **options)
    assert caught.value.exit_code == DivergedError.exit_code


def test_the_network_can_vary(data: Path, tmp_path: Path, alone: None) -> None:
    """Options of a single network apply to its trials only."""
    options = {**OPTIONS, "epochs": 1, "members": []}
    space = {"members": ["row-lstm", "small-cnn"], "hidden_size": [4, 8], "dropout": [0.1, 0.2]}
    tuning = tune(data, space=space, trials=6, output=str(tmp_path / "study"), pruner="none", **options)
    assert {trial["state"] for trial in tuning.metrics["trials"]} == {"complete"}
    assert {trial["options"]["members"] for trial in tuning.metrics["trials"][1:]} == {"row-lstm", "small-cnn"}
    run = train(data, **read_mapping(tuning.best) | {"output": str(tmp_path / "run")})
    assert run.metrics["best_member"] == read_mapping(tuning.best)["members"][0]


# ------------------------------------------------------------------------------------------ proposals


def test_proposals_depend_on_seed_and_earlier_trials_only(data: Path, tmp_path: Path) -> None:
    def propose(name: str, seed: int, reopen: bool) -> list[dict[str, Any]]:
        parsed = TUNE.parse_object({**OPTIONS, "seed": seed})
        search = SearchStudy.make(str(data), parsed, SPACE, trials=12, pruner="none")
        log = TrialLog(tmp_path / name, search)
        for _ in range(8):
            log = TrialLog(tmp_path / name, search) if reopen else log
            number = log.propose()
            log.finish(number, log.points()[number]["lr"])
        return log.points()

    points = propose("first", 0, reopen=False)
    assert propose("again", 0, reopen=True) == points
    assert propose("other", 1, reopen=False) != points
    assert len({point["lr"] for point in points}) == 8


def test_sampled_points_lie_in_the_space(data: Path) -> None:
    search = SearchStudy.make(str(data), TUNE.parse_object(OPTIONS), SPACE, trials=5, pruner="none")
    points = sample_points(search.space, 20)
    assert points == sample_points(search.space, 20)
    for point in points:
        member, config = search.configuration(point)
        assert member.model.hidden_size == point["hidden_size"] and config.class_balanced_sampling is (
            point["data.class_balanced_sampling"] == "true"
        )


def test_importance_of_options(data: Path, tmp_path: Path) -> None:
    search = SearchStudy.make(str(data), TUNE.parse_object(OPTIONS), SPACE, trials=40, pruner="none")
    log = TrialLog(tmp_path / "journal", search)
    assert log.importance() == {}
    for _ in range(30):
        number = log.propose()
        log.finish(number, -abs(log.points()[number]["lr"] - 0.02))
    shares = log.importance()
    assert sum(shares.values()) == pytest.approx(1) and max(shares, key=lambda key: shares[key]) == "lr"


# ------------------------------------------------------------------------------------------ errors before data is read


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (
            {"hidden_sise": [4, 8], "lr": ["fast"]},
            {},
            "space: hidden_sise: unknown option, did you mean 'hidden_size'?",
        ),
        ({"dropout": [0.1, 0.2]}, {}, "space: dropout has no effect on this network"),
        ({"data.val_fraction": [0.1, 0.2]}, {}, "cannot vary, all trials share one prepared data set"),
        ({"seed": [0, 1]}, {}, "cannot vary, the best of several seeds"),
        ({"tta": ["none", "flips"]}, {}, "cannot vary, it does not affect"),
        ({"fusion.steps": [10, 20]}, {}, "cannot vary, a trial has one member"),
        ({"hidden_size": [4, 8]}, {"members": []}, "the options of one network: name it, such as --members row-lstm"),
        ({"hidden_size": [4, 8]}, {"members": ["row-lstm", "row-gru"]}, "the options of one network, not of 2"),
        ({"hidden_size": [4, 8]}, {"monitor_split": "test"}, "remove --monitor-split"),
        ({"hidden_size": [4, 8]}, {"dropout": 0.3}, "--dropout has no effect on any member"),
        ({"hidden_size": [4, 8]}, {"trials": 1}, "trials 1 must be at least 2"),
        (
            {"patience": [1, 2]},
            {"epochs": None, "lr": None, "preset": "paper"},
            "need a single stage",
        ),
        (None, {"members": []}, "the options of one network: name it"),
        (None, {"members": ["pixels"], "preset": "fast", **dict.fromkeys(UNSET)}, "has nothing to tune"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_invalid_searches_raise_before_data_is_read(
    space: Any, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        tune("no-such-data", space=space, **{**OPTIONS, **options})
    assert message in str(caught.value)
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_a_search_without_a_space_varies_rates_and_regularization(data: Path, tmp_path: Path) -> None:
    tuning = tune(data, trials=2, output=str(tmp_path / "study"), **{**OPTIONS, "lr": 1e-2})
    values = tuning.metrics["trials"][1]["options"]
    assert {"lr", "weight_decay", "label_smoothing", "augment"} == set(values)
    assert 1e-3 <= values["lr"] <= 1e-1 and tune(resume=tuning.path).metrics == tuning.metrics


def test_options_that_are_valid_at_some_points_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no-such-data"):
        tune("no-such-data", space={"schedule": ["cosine", "constant"]}, **{**OPTIONS, "epochs": None, "lr": None})


def test_every_problem_of_a_space_is_reported_on_a_line(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("hidden_sise: [4]\nlr: {low: fast, high: 1}\noptimizer: [adma]\n")
    assert main(["tune", "no-such-data", "--space", str(path), "--members", "row-lstm"]) == 2
    lines = capsys.readouterr().err.removeprefix("tercet: error: ").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[str(path), key] for key in ("hidden_sise", "lr", "optimizer")]


def test_options_of_a_member_mapping_can_vary(data: Path) -> None:
    """They become base options of the search, which the values of a trial override."""
    member = {"model": "row-lstm", "name": "reader", "hidden_size": 6, "lr": 1e-2}
    options = {key: value for key, value in OPTIONS.items() if key not in ("hidden_size", "lr")} | {"members": [member]}
    search = SearchStudy.make(str(data), TUNE.parse_object(options), {"hidden_size": [4, 6]}, trials=3, pruner="none")
    assert search.start_point() == {"hidden_size": "6"}
    resolved, _ = search.configuration({"hidden_size": "4"})
    assert (resolved.name, resolved.model.hidden_size, resolved.training.lr) == ("reader", 4, 1e-2)


def test_the_example_space_contains_the_base_options(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / "row_lstm_space.yaml"
    lines = re.findall(r"^#   (.*?[^\\])$", path.read_text(), re.MULTILINE | re.DOTALL)
    parsed = find_command("tune").parse_args(shlex.split(lines[0].replace("\\\n# ", ""))[2:])
    search = SearchStudy.make("fashion-mnist", parsed, path, trials=24, pruner="median")
    search.check(sample_points(search.space, 20))
    assert set(search.start_point()) == set(search.space.keys)  # otherwise the sampler could not use trial 0


def test_resume_needs_the_folder_of_a_search(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"it has no run\.json"):
        tune(resume=tmp_path)


def test_a_missing_optuna_is_reported_with_its_extra(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune_log, "optuna", None)
    assert main(["tune", str(data), "--members", "row-lstm", "--space", "space.yaml"]) == 2
    assert capsys.readouterr().err == (
        "tercet: error: tercet tune needs Optuna, which is not installed: pip install 'tercet[search]'\n"
    )
