"""The ladder: rungs, what ends it, its time budget, and interruptions."""

import io
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from rich.console import Console
from safetensors.torch import save_file

from tercet.config.presets import FINE_TUNING, LadderConfig, read_duration
from tercet.core.errors import ConfigError, Interrupted, ModelError, Terminated
from tercet.core.files import read_json
from tercet.core.run_folder import RunFolder
from tercet.experiments import ladder as ladder_module
from tercet.experiments.crossval import crossval
from tercet.experiments.estimate import Estimator, members_within
from tercet.experiments.ladder import Ladder, RungResult
from tercet.experiments.plan import Plan
from tercet.experiments.train import Run, train

OPTIONS: dict[str, Any] = {"tensorboard": False, "threads": 1, "ensemble_methods": ["average"], "seed": 3}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return {"model": "test_resnet", "weights": str(path), "input.size": 32}


@pytest.fixture(scope="module")
def run(shapes: Path, encoder: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = str(tmp_path_factory.mktemp("runs") / "ladder")
    members = [{**encoder, "name": "a"}, {"model": "small-cnn", "epochs": 1}]
    return train(shapes, members=members, output=output, **OPTIONS)


def test_a_run_trains_probe_then_network_then_the_others(run: Run) -> None:
    rows = run.metrics["ladder"]
    assert [(row["rung"], row["members"]) for row in rows] == [
        ("probe", ["a-probe"]),
        ("fine-tune", ["a"]),
        ("ensemble", ["small-cnn"]),
    ]
    assert all(row["status"] == "finished" and row["validation"]["accuracy"] > 0 for row in rows)
    assert {member["name"] for member in run.metrics["members"]} == {"a-probe", "a", "small-cnn"}
    assert rows[-1]["chosen"] == run.metrics["chosen"] and "from cheap to expensive" in run.report


def test_fine_tuning_has_the_options_of_the_preset_and_starts_from_the_probe(run: Run) -> None:
    member = Plan.load(RunFolder.open(run.path)).member("a")
    assert (member.training.head_lr, member.training.optimizer) == (FINE_TUNING["head_lr"], "adamw")
    assert (member.model.head, member.training.head_init) == ("linear", "logistic")
    history = (run.path / "members" / "a" / "train.log").read_text()
    assert "epoch 1" in history


def test_a_finished_run_is_reported_again_without_training(run: Run) -> None:
    again = train(resume=run.path)
    assert again.metrics["ladder"] == run.metrics["ladder"]


def test_options_that_the_user_sets_replace_those_of_the_preset(
    shapes: Path, encoder: dict[str, Any], tmp_path: Path
) -> None:
    members = [{**encoder, "name": "a", "optimizer": "adam", "patience": 1}]
    options = {**OPTIONS, "augment": "none", "warmup_epochs": 0.5}  # the probe before has no epochs
    result = train(shapes, members=members, output=str(tmp_path / "run"), stop_at="fine-tune", **options)
    training = Plan.load(RunFolder.open(result.path)).member("a").training
    assert (training.optimizer, training.patience, training.augment) == ("adam", 1, "none")
    assert training.warmup_epochs == 0.5
    assert training.head_lr == FINE_TUNING["head_lr"]


def test_options_of_a_training_are_for_the_networks_not_their_probes(
    shapes: Path, encoder: dict[str, Any], tmp_path: Path
) -> None:
    options = {"patience": 1, "head_lr": 0.01, "schedule": "constant", "warmup_epochs": 0.5}
    result = train(
        shapes, members=[{**encoder, "name": "a"}], output=str(tmp_path / "run"), stop_at="probe", **options, **OPTIONS
    )  # type: ignore[misc]
    (waiting,) = Plan.load(RunFolder.open(result.path)).rungs
    assert {name: getattr(waiting.members[0].training, name) for name in options} == options


def test_options_of_a_training_have_no_effect_on_fitted_heads_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--patience has no effect on a fitted head"):
        train("no-such-data", members=["pixels"], patience=2, preset="fast", output=str(tmp_path / "run"))


def test_epochs_and_the_preset_paper_train_all_members_at_once(shapes: Path, tmp_path: Path) -> None:
    members = [{"model": "test_resnet", "pretrained": False, "input.size": 32}]
    single = train(shapes, members=members, epochs=1, output=str(tmp_path / "single"), **OPTIONS)
    assert "ladder" not in single.metrics
    training = Plan.load(RunFolder.open(single.path)).members[0].training
    assert (training.optimizer, training.head_lr) == ("adam", None)


def test_the_lines_of_a_run_say_data_then_plan_then_a_line_per_rung(
    shapes: Path, encoder: dict[str, Any], tmp_path: Path
) -> None:
    stream = io.StringIO()
    members = [{**encoder, "name": "a", "patience": 1}, {"model": "small-cnn", "epochs": 1}]
    output = tmp_path / "run"
    result = train(shapes, members=members, output=str(output), console=Console(file=stream), **OPTIONS)
    lines = [line for line in stream.getvalue().splitlines() if ": epoch" not in line]
    assert (
        lines[0].startswith(f"{shapes}: 3 classes; ")
        and lines[1].startswith("data: layout: class folders")
        and lines[2].startswith("plan, from cheap to expensive")
    )
    assert sum(line.startswith(f"{shapes}: ") for line in lines) == 1
    weights = encoder["weights"]
    assert re.fullmatch(
        rf"  probe: a-probe \(logistic head, fitted on features of the frozen network, weights: {weights}\); about .+",
        lines[3],
    )
    assert lines[4].startswith(f"  fine-tune: a (weights: {weights}); about ")
    assert lines[5].startswith("  ensemble: small-cnn (from scratch); about ")
    rungs = [line for line in lines if " finished after " in line]
    for line, row in zip(rungs, result.metrics["ladder"], strict=True):
        values = row["validation"]
        interval = f"(95 % interval {values['accuracy_low']:.4f} to {values['accuracy_high']:.4f})"
        images = f"{values['n']} validation images"
        assert line.startswith(f"{row['rung']} finished after ")
        assert (
            f": accuracy {values['accuracy']:.4f} {interval} by {row['chosen']} on {images}; bundle: {output}" in line
        )
    for line, rung, row in zip(
        rungs, ("fine-tune of a", "ensemble of small-cnn"), result.metrics["ladder"], strict=False
    ):
        errors = round((1 - row["validation"]["accuracy"]) * row["validation"]["n"])
        assert re.search(rf"; next, {rung}: about .+, and can correct at most {errors} errors?$", line)
    assert rungs[-1].endswith("bundle")


def test_the_plan_of_several_networks_fine_tunes_one_first(run: Run) -> None:
    ladder = _ladder(run)
    member = ladder.plan.member("a")
    waiting = tuple(replace(member, name=name) for name in ("b", "c"))
    ladder.plan = replace(ladder.plan, rungs=(ladder_module.Rung("fine-tune", waiting),))
    ladder.console = Console(file=io.StringIO(), width=500)
    ladder.print_plan()
    lines = ladder.console.file.getvalue().splitlines()[3:]  # type: ignore[attr-defined]
    assert lines[0].startswith("  fine-tune: the best, by its probe, of b (weights: ")
    assert lines[1].startswith("  ensemble: the others of these; about ") and len(lines) == 2


def test_the_last_line_says_why_the_ladder_ends(shapes: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    train(shapes, output=str(tmp_path / "run"), stop_at="probe", console=Console(file=stream), **OPTIONS)
    (line,) = [line for line in stream.getvalue().splitlines() if " finished after " in line]
    assert line.endswith("bundle; fine-tune not trained: --stop-at probe")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preset": "fast"}, "the preset is fast"),
        ({"preset": "paper"}, "the preset is paper"),
        ({"epochs": 1}, "--epochs, --lr or --stages define the training"),
        ({"head": "ridge"}, "--head ridge is fitted without a training"),
        ({"members": ["small-cnn"]}, "none of the members has a pretrained network"),
    ],
)
@pytest.mark.parametrize("limit", [{"time_budget": "1m"}, {"stop_at": "probe"}])
def test_limits_of_the_ladder_without_effect_are_errors(
    options: dict[str, Any], reason: str, limit: dict[str, str], tmp_path: Path
) -> None:
    (name,) = limit
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} limit.*{reason}.*--max-time"):
        train("no-such-data", output=str(tmp_path / "run"), **options, **limit)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_resume_sets_no_limit_without_effect(shapes: Path, tmp_path: Path) -> None:
    result = train(shapes, members=["small-cnn"], epochs=1, output=str(tmp_path / "run"), **OPTIONS)
    with pytest.raises(ConfigError, match="--stop-at limit"):
        train(resume=result.path, stop_at="probe")
    assert train(resume=result.path).metrics["chosen"] == "small-cnn"  # the option was not stored


def test_a_probe_has_the_class_weights_of_its_member(shapes: Path, encoder: dict[str, Any], tmp_path: Path) -> None:
    member = {**encoder, "name": "a", "class_weights": "balanced"}
    result = train(shapes, members=[member], output=str(tmp_path / "run"), stop_at="probe", **OPTIONS)
    training = Plan.load(RunFolder.open(result.path)).member("a-probe").training
    assert training.class_weights == "balanced"


@pytest.mark.parametrize("named", [True, False])
def test_weights_of_another_network_are_an_error_before_data_are_read(
    encoder: dict[str, Any], tmp_path: Path, named: bool
) -> None:
    options: dict[str, Any] = {"members": ["test_vit"]} if named else {}
    network = "test_vit" if named else "mobilenetv2_100"
    with pytest.raises(ModelError, match=f"encoder.safetensors are not those of '{network}'") as error:
        train("no-such-data", weights=encoder["weights"], output=str(tmp_path / "run"), **options)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_missing_weights_file_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"for 'mobilenetv2_100': weights file no-such\.pt does not exist") as error:
        train("no-such-data", weights="no-such.pt", output=str(tmp_path / "run"))
    assert len(error.value.problems) == 1


def test_small_images_start_with_their_pixels(shapes: Path, tmp_path: Path) -> None:
    result = train(shapes, output=str(tmp_path / "run"), stop_at="probe", **OPTIONS)
    assert [row["members"] for row in result.metrics["ladder"] if row["status"] == "finished"] == [["pixels"]]
    assert result.metrics["chosen"] == "pixels" and result.bundle().classes


def test_the_preset_fast_fits_heads_only(shapes: Path, encoder: dict[str, Any], tmp_path: Path) -> None:
    result = train(shapes, members=[encoder], preset="fast", output=str(tmp_path / "run"), **OPTIONS)
    summary = RunFolder.open(result.path).member("test_resnet").summary()
    assert summary["steps"] == 0


def test_crossval_takes_presets(shapes: Path, encoder: dict[str, Any], tmp_path: Path) -> None:
    result = crossval(shapes, members=[encoder], preset="fast", folds=2, output=str(tmp_path / "folds"), **OPTIONS)
    assert all(member["steps"] == 0 for member in result.metrics["members"] if "steps" in member)
    assert result.metrics


def _ladder(run: Run, *, complete: bool = False, **config: Any) -> Ladder:
    folder = RunFolder.open(run.path)
    plan = Plan.load(folder)
    console = Console(quiet=True)
    return Ladder(folder, plan, plan.open_data(folder), LadderConfig(**config), complete, console)


@pytest.mark.parametrize(
    ("accuracy", "n", "ends"),
    [(1.0, 100, True), (0.95, 100, True), (0.94, 100, False), (0.8, 20, False), (0.95, 20, True), (0.99, 1000, False)],
)
def test_a_ladder_ends_when_no_model_can_be_shown_to_be_better(run: Run, accuracy: float, n: int, ends: bool) -> None:
    ladder = _ladder(run)
    rung = ladder_module.Rung("fine-tune", ladder.plan.members[:1])
    ladder.results = [RungResult("probe", ["a"], "finished", 1.0, "a", {"accuracy": accuracy, "n": n})]
    assert bool(ladder.reason_to_stop(rung)) == ends
    ladder.complete = True
    assert not ladder.reason_to_stop(rung)


def test_the_fine_tuned_network_is_that_of_the_best_probe(run: Run) -> None:
    ladder = _ladder(run)
    member = ladder.plan.member("a")
    other = replace(member, name="other")
    first, left = ladder.divide(ladder_module.Rung("fine-tune", (other, member)))
    assert [m.name for m in first] == ["a"] and [m.name for m in left] == ["other"]


def test_epochs_are_planned_for_the_budget(run: Run) -> None:
    ladder = _ladder(run)
    plan, member, estimator = ladder.plan, ladder.plan.member("a"), Estimator(ladder.prepared)
    full, least = estimator.seconds(plan, member), estimator.least_seconds(plan, member)
    assert least < full
    assert members_within(plan, [member], float("inf"), estimator) == [member]
    assert members_within(plan, [member], least / 2, estimator) == []
    (shorter,) = members_within(plan, [member], (full + least) / 2, estimator)
    assert 2 <= (shorter.training.epochs or 0) < FINE_TUNING["epochs"]
    assert estimator.seconds(plan, shorter) <= (full + least) / 2


def test_a_budget_that_is_too_small_is_an_error_with_the_least_one(shapes: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"time_budget 0\.001s is too small.*give at least \d+s"):
        train(shapes, time_budget="0.001s", output=str(output), **OPTIONS)
    assert not output.exists()


def test_a_budget_ends_the_ladder_and_keeps_the_best(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Estimator, "seconds", lambda self, plan, member, epochs=None: 1e3 if member.training.epochs else 0
    )
    result = train(shapes, time_budget="10m", output=str(tmp_path / "run"), **OPTIONS)
    last = result.metrics["ladder"][-1]
    assert result.metrics["chosen"] == "pixels" and "time budget" in last["status"]


def test_an_interruption_keeps_the_bundle_of_the_last_rung(
    shapes: Path, encoder: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = ladder_module.train_waiting

    def interrupt(run: RunFolder, plan: Plan, *arguments: Any) -> Any:
        if plan.rung != "probe":
            raise Interrupted("stopped", signal.SIGINT)
        return trained(run, plan, *arguments)

    monkeypatch.setattr(ladder_module, "train_waiting", interrupt)
    output = tmp_path / "run"
    with pytest.raises(Interrupted, match="The bundle of a-probe is complete") as caught:
        train(shapes, members=[{**encoder, "name": "a"}], output=str(output), **OPTIONS)
    assert caught.value.exit_code == 130
    assert read_json(output / "metrics.json")["chosen"] == "a-probe" and (output / "bundle").is_dir()
    monkeypatch.setattr(ladder_module, "train_waiting", trained)
    rungs = train(resume=output).metrics["ladder"]
    assert [row["rung"] for row in rungs] == ["probe", "fine-tune"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_a_signal_between_trainings_says_how_to_continue(
    shapes: Path,
    encoder: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[KeyboardInterrupt],
) -> None:
    output, name = tmp_path / "run", "SIGTERM" if stop is Terminated else "Ctrl-C"

    def interrupt(*arguments: Any) -> Any:
        raise stop

    members = [{**encoder, "name": "a"}]
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=rf"{name}: continue with --resume \S+run$"):
        patch.setattr(Ladder, "print_plan", interrupt)
        train(shapes, members=members, output=str(output), stop_at="probe", **OPTIONS)
    train(resume=output)
    for owner, step in ((ladder_module, "train_waiting"), (Ladder, "print_plan"), (Ladder, "start_next")):
        with (
            monkeypatch.context() as patch,
            pytest.raises(Interrupted, match=f"{name}: continue.*The bundle of a-probe"),
        ):
            patch.setattr(owner, step, interrupt)
            train(resume=output)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5 h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "ten", "5 days", "1h-3m", "m"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        read_duration(text)
