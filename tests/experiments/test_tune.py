"""Whole searches on small pictures: found, given up, refused, killed and taken up again."""

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

from tercet.cli.main import main
from tercet.config.experiments import TUNE
from tercet.core.errors import ConfigError, DivergedError, StorageError
from tercet.core.history import History
from tercet.core.yaml_io import dump_yaml, read_mapping
from tercet.experiments import tune_log as journals
from tercet.experiments.train import train
from tercet.experiments.tune import Tuning, tune
from tercet.experiments.tune_folder import SearchFolder
from tercet.experiments.tune_log import TrialLog, sample_trial
from tercet.experiments.tune_study import SearchStudy

start, data = stopping.start, stopping.data  # the fixtures: real processes, and pictures of 12 x 12 pixels
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
TRIALS = 8
WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items() if name != "members"]
WORDS += ["--members", "row-lstm", "--trials", str(TRIALS)]


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(dump_yaml(SPACE))
    return path


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    with one_core():
        output = str(tmp_path_factory.mktemp("studies") / "study")
        return tune(data, space=SPACE, trials=TRIALS, output=output, **OPTIONS)


def outcomes(path: Path) -> list[dict[str, Any]]:
    """Return everything about the trials but what the clock decides."""
    rows: list[dict[str, Any]] = json.loads((path / "trials.json").read_text())["trials"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ------------------------------------------------------------------------------------------ what is found


def test_the_trials_are_told_in_three_ways(finished: Tuning) -> None:
    trials = finished.metrics["trials"]
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
    assert json.loads((finished.path / "trials.json").read_text()) == finished.metrics
    rows = list(csv.DictReader((finished.path / "trials.csv").read_text().splitlines()))
    assert [row["hidden_size"] for row in rows] == [str(trial["options"]["hidden_size"]) for trial in trials]
    assert (finished.path / "report.txt").read_text() == finished.report
    assert max(map(len, finished.report.splitlines()[:-2])) <= 80
    best = finished.metrics["best"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    assert best["score"] == max(trial["score"] for trial in complete) >= trials[0]["score"]
    assert f"* {best['number']}" in finished.report and "--config" in finished.report


def test_the_best_configuration_trains_to_the_very_score(finished: Tuning, data: Path, tmp_path: Path) -> None:
    with one_core():
        assert main(["train", str(data), "--config", str(finished.best), "--output", str(tmp_path / "run")]) == 0
    (member,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["members"]
    best = finished.metrics["best"]
    reached = {name: value for name, value in member["best"].items() if name not in ("stage", "epoch")}
    assert reached == best["scores"]
    config = read_mapping(finished.best)
    assert {key: config[key] for key in best["options"]} == best["options"]


def test_a_trial_is_measured_on_validation_and_leaves_no_weights(finished: Tuning) -> None:
    files = {path.name for path in (finished.path / "trials").rglob("*") if path.is_file()}
    assert files == {"plan.json", "trial.json", "train.log", "history.jsonl", "member.json"}
    trial = SearchFolder(finished.path).trial(0)
    assert len(History.load(trial.run.member("row-lstm").path / "history.jsonl")) == 3


def test_decoded_once(finished: Tuning) -> None:
    assert len(list(finished.path.rglob("images"))) == 1


# ------------------------------------------------------------------------------------------ stopped and resumed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
def test_a_killed_search_ends_as_one_that_was_let_alone(
    number: signal.Signals,
    finished: Tuning,
    data: Path,
    space_file: Path,
    tmp_path: Path,
    start: stopping.Start,
    alone: None,
) -> None:
    study = tmp_path / "study"
    process = start("tune", data, "--space", space_file, *WORDS, "--output", study)
    process.until(lambda: (study / "trials/0001/plan.json").exists())
    process.kill(number)
    assert process.wait() == (-9 if number is signal.SIGKILL else 128 + number), process.stderr()
    assert not (study / "best.yaml").exists()
    with open(study / "study.journal", "a") as journal:
        journal.write('{"op_code":4,"wor')  # a line that a full disk cut short
    (study / "study.journal.lock").symlink_to(study / "study.journal")
    assert main(["tune", "--resume", str(study)]) == 0
    assert outcomes(study) == outcomes(finished.path)
    assert read_mapping(study / "best.yaml") == read_mapping(finished.best)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_trials_side_by_side_are_stopped_and_taken_up_again(
    data: Path, space_file: Path, tmp_path: Path, start: stopping.Start, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    process = start("tune", data, "--space", space_file, *WORDS, "--output", study, cores=2)
    process.until(lambda: (study / "trials/0001/trial.json").exists())
    process.kill(signal.SIGTERM)
    assert process.wait() == 143
    assert f"continue with --resume {study}" in process.stderr().replace("\n", " ")
    with one_core():
        assert main(["tune", "--resume", str(study), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [trial["number"] for trial in document["trials"]] == list(range(TRIALS))
    assert {trial["state"] for trial in document["trials"]} <= {"complete", "pruned"}


def test_more_trials_may_be_asked_for(data: Path, tmp_path: Path, alone: None) -> None:
    study = tmp_path / "study"
    first = tune(data, space=SPACE, trials=2, output=str(study), pruner="none", **OPTIONS)
    longer = tune(resume=study, trials=4)
    assert longer.metrics["trials"][:2] == first.metrics["trials"] and len(longer.metrics["trials"]) == 4
    assert tune(resume=study).metrics == longer.metrics
    with pytest.raises(ConfigError, match="4 trials were begun already"):
        tune(resume=study, trials=3)
    with pytest.raises(ConfigError, match="it takes no seed"):
        tune(resume=study, seed=1)


# ------------------------------------------------------------------------------------------ given up, failed


def test_hopeless_trials_are_given_up(data: Path, tmp_path: Path, alone: None) -> None:
    """Rates of which all but one teach nothing: from the fifth trial on, epochs are saved; never the first trial's."""
    space = {"lr": [1e-2, 1e-12, 1e-13, 1e-14]}
    options = {**OPTIONS, "lr": 1e-2, "epochs": 6, "monitor": "loss"}
    done = tune(data, space=space, trials=12, output=str(tmp_path / "study"), **options)
    trials = done.metrics["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned and all(trial["epochs"] < 6 and trial["number"] > 3 for trial in pruned)
    assert all(trial["options"]["lr"] < 1e-2 for trial in pruned)
    assert done.metrics["best"]["options"]["lr"] == 1e-2
    assert all(trial["epochs"] == 6 for trial in trials if trial["state"] == "complete")
    assert "pruned" in done.report


@pytest.mark.parametrize(("pruner", "gives_up"), [("median", True), ("hyperband", None), ("none", False)])
def test_pruners_judge_epochs(pruner: str, gives_up: bool | None, data: Path, tmp_path: Path) -> None:
    parsed = TUNE.parse_object({**OPTIONS, "epochs": 9})
    search = SearchStudy.make(str(data), parsed, SPACE, trials=20, pruner=pruner)
    journal = TrialLog(tmp_path / "journal", search)

    def verdicts(number: int, score: float, epochs: int) -> list[bool]:
        found = []
        for epoch in range(epochs):
            journal.report(number, [{"accuracy": score}] * (epoch + 1))
            found.append(journal.hopeless(number))
        return found

    for _ in range(5):
        number = journal.propose()
        assert not any(verdicts(number, 0.9, 9)[:-1])
        journal.tell(number, 0.9)
    worse = [journal.propose() for _ in range(4)]
    told = [any(verdicts(number, 0.1, 3)) for number in worse]
    assert set(told) == {gives_up} if gives_up is not None else True in told
    journal = TrialLog(tmp_path / "journal", search)  # as another process sees it
    journal.report(worse[0], [{"accuracy": 0.7}] * 3)  # nothing of this is new
    assert journal.running() == worse


def test_trials_that_fail_leave_the_others(data: Path, tmp_path: Path, alone: None) -> None:
    space = {"lr": [3e-3, 1e38], "batch_size": [4, 16], "micro_batches": [1, 8]}
    done = tune(data, space=space, trials=12, output=str(tmp_path / "study"), pruner="none", **OPTIONS)
    failed = [trial for trial in done.metrics["trials"] if trial["state"] == "failed"]
    diverged = [trial for trial in failed if "the loss is" in trial["reason"]]
    refused = [trial for trial in failed if "micro_batches must lie between" in trial["reason"]]
    assert diverged and refused and len(diverged) + len(refused) == len(failed) < 11
    assert all(trial["options"]["lr"] == 1e38 for trial in diverged)
    assert done.metrics["best"]["options"]["lr"] == 3e-3
    assert "failed: " in done.report


def test_scores_that_are_no_numbers_are_a_failure(data: Path, tmp_path: Path, alone: None) -> None:
    """One update an epoch: its loss is still finite, and what it leaves is not."""
    options = {**OPTIONS, "batch_size": 64, "optimizer": "sgd"}
    space = {"lr": [3e-3, 1e38]}
    done = tune(data, space=space, trials=5, output=str(tmp_path / "study"), pruner="none", **options)
    by_rate = {trial["options"]["lr"]: trial for trial in done.metrics["trials"]}
    assert by_rate[3e-3]["state"] == "complete"
    assert by_rate[1e38]["state"] == "failed" and "not finite" in by_rate[1e38]["reason"]


def test_where_nothing_can_be_trained_the_reason_is_told(data: Path, tmp_path: Path, alone: None) -> None:
    options = {**OPTIONS, "lr": 1e38}
    with pytest.raises(Exception, match="no trial could be trained to its end: the loss is") as caught:
        tune(data, space={"hidden_size": [4, 8]}, trials=2, output=str(tmp_path / "study"), **options)
    assert caught.value.exit_code == DivergedError.exit_code  # type: ignore[attr-defined]


def test_networks_may_vary(data: Path, tmp_path: Path, alone: None) -> None:
    """Options that only one of them has act there, and are left out elsewhere."""
    options = {**OPTIONS, "epochs": 1, "members": []}
    space = {"members": ["row-lstm", "small-cnn"], "hidden_size": [4, 8], "dropout": [0.1, 0.2]}
    done = tune(data, space=space, trials=6, output=str(tmp_path / "study"), pruner="none", **options)
    assert {trial["state"] for trial in done.metrics["trials"]} == {"complete"}
    assert {trial["options"]["members"] for trial in done.metrics["trials"][1:]} == {"row-lstm", "small-cnn"}
    run = train(data, **read_mapping(done.best) | {"output": str(tmp_path / "run")})
    assert run.metrics["best_member"] == read_mapping(done.best)["members"][0]


# ------------------------------------------------------------------------------------------ proposals


def test_a_proposal_follows_from_the_seed_and_the_trials_before(data: Path, tmp_path: Path) -> None:
    def propose(name: str, seed: int, reopen: bool) -> list[dict[str, Any]]:
        search = SearchStudy.make(
            str(data), TUNE.parse_object({**OPTIONS, "seed": seed}), SPACE, trials=12, pruner="none"
        )
        journal = TrialLog(tmp_path / name, search)
        for _ in range(8):
            journal = TrialLog(tmp_path / name, search) if reopen else journal
            number = journal.propose()
            journal.tell(number, journal.points()[number]["lr"])
        return journal.points()

    once = propose("once", 0, reopen=False)
    assert propose("again", 0, reopen=True) == once
    assert propose("other", 1, reopen=False) != once
    assert len({point["lr"] for point in once}) == 8


def test_drawn_points_lie_in_the_space(data: Path) -> None:
    search = SearchStudy.make(str(data), TUNE.parse_object(OPTIONS), SPACE, trials=5, pruner="none")
    points = sample_trial(search.space, 20)
    assert points == sample_trial(search.space, 20)
    for point in points:
        member, config = search.configuration(point)
        assert member.model.hidden_size == point["hidden_size"] and config.class_balanced_sampling is (
            point["data.class_balanced_sampling"] == "true"
        )


def test_the_importance_of_options(data: Path, tmp_path: Path) -> None:
    search = SearchStudy.make(str(data), TUNE.parse_object(OPTIONS), SPACE, trials=40, pruner="none")
    journal = TrialLog(tmp_path / "journal", search)
    assert journal.importance() == {}
    for _ in range(30):
        number = journal.propose()
        journal.tell(number, -abs(journal.points()[number]["lr"] - 0.02))
    shares = journal.importance()
    assert sum(shares.values()) == pytest.approx(1) and max(shares, key=lambda key: shares[key]) == "lr"


# ------------------------------------------------------------------------------------------ refused before data


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        (
            {"hidden_sise": [4, 8], "lr": ["fast"]},
            {},
            "space: hidden_sise: unknown option, did you mean 'hidden_size'?",
        ),
        ({"dropout": [0.1, 0.2]}, {}, "space: dropout has no effect on this network"),
        ({"data.val_fraction": [0.1, 0.2]}, {}, "cannot vary, all trials share one prepared data set"),
        ({"seed": [0, 1]}, {}, "cannot vary, the best of several seeds is luck"),
        ({"tta": ["none", "flips"]}, {}, "cannot vary, it does not change what is learned"),
        ({"fusion.steps": [10, 20]}, {}, "cannot vary, a member alone is not fused"),
        ({"hidden_size": [4, 8]}, {"members": []}, "the options of one network: name it, as in --members row-lstm"),
        ({"hidden_size": [4, 8]}, {"members": ["row-lstm", "row-gru"]}, "the options of one network, not of 2"),
        ({"hidden_size": [4, 8]}, {"monitor_split": "test"}, "tune chooses on validation"),
        ({"hidden_size": [4, 8]}, {"dropout": 0.3}, "--dropout has no effect on any member"),
        ({"hidden_size": [4, 8]}, {"trials": 1}, "trials must be at least 2"),
        ({"schedule": ["cosine", "constant"]}, {"epochs": None, "lr": None}, "no such data"),
        ({"patience": [1, 2]}, {"epochs": None, "lr": None}, "nothing in this space can be trained: schedule and"),
        (None, {}, "say which options vary: --space SPACE.yaml"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refused_before_data_is_touched(
    space: Any, options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError if said != "no such data" else Exception) as caught:
        tune("no-such-data", space=space, **{**OPTIONS, **options})
    if said != "no such data":
        assert said in str(caught.value)
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_every_problem_of_a_space_is_a_line(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("hidden_sise: [4]\nlr: {low: fast, high: 1}\noptimizer: [adma]\n")
    assert main(["tune", "no-such-data", "--space", str(path), "--members", "row-lstm"]) == 2
    lines = capsys.readouterr().err.removeprefix("tercet: error: ").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[str(path), key] for key in ("hidden_sise", "lr", "optimizer")]


def test_a_member_s_own_options_may_vary(data: Path) -> None:
    """They become the search's, so that a trial's value has the last word."""
    member = {"model": "row-lstm", "name": "reader", "hidden_size": 6, "lr": 1e-2}
    options = {key: value for key, value in OPTIONS.items() if key not in ("hidden_size", "lr")} | {"members": [member]}
    search = SearchStudy.make(str(data), TUNE.parse_object(options), {"hidden_size": [4, 6]}, trials=3, pruner="none")
    assert search.start() == {"hidden_size": "6"}
    resolved, _ = search.configuration({"hidden_size": "4"})
    assert (resolved.name, resolved.model.hidden_size, resolved.training.lr) == ("reader", 4, 1e-2)


def test_the_example_of_a_space_has_its_command_s_options_in_it(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / "row_lstm_space.yaml"
    lines = re.findall(r"^#   (.*?[^\\])$", path.read_text(), re.MULTILINE | re.DOTALL)
    words = shlex.split(lines[0].replace("\\\n# ", ""))[2:]
    parsed = TUNE.parse_args(words)
    search = SearchStudy.make("fashion-mnist", parsed, path, trials=24, pruner="median")
    search.check(sample_trial(search.space, 20))
    assert set(search.start()) == set(search.space.keys)  # so that trial 0 teaches the sampler


def test_a_folder_that_holds_no_search(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no search: it has no study\.yaml"):
        tune(resume=tmp_path)


def test_without_optuna_one_line_says_how_to_get_it(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journals, "optuna", None)
    assert main(["tune", str(data), "--members", "row-lstm", "--space", "space.yaml"]) == 2
    assert capsys.readouterr().err == (
        "tercet: error: tercet tune needs Optuna, which is not installed: pip install 'tercet[search]'\n"
    )
