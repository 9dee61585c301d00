"""The command line: help, results, error messages, exit codes."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

import tercet
from tercet.cli.command import Function, find_command
from tercet.cli.main import COMMANDS, main
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, Problem, raise_problems
from tercet.core.output import CommandResult
from tercet.core.run_folder import RunFolder
from tests.fixtures.runs import draw, draw_folder, one_core

Run = Callable[..., tuple[int, str, str]]
SMALL = ["--members", "row-gru,small-cnn", "--epochs", "2", "--lr", "0.003", "--batch-size", "16"]
QUICK_FUSION = ["--fusion.width", "16", "--fusion.steps", "5", "--fusion.folds", "2"]
CLASSES = {"[bold]disc[x] 🐦", "new\nline", "stroke"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that calls `main` and returns exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def strict_json(text: str) -> Any:
    """Parse a JSON document; raise on NaN and infinities, which JSON does not allow."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not valid JSON")

    return json.loads(text, parse_constant=refuse)


def start(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", *arguments]
    return subprocess.run(command, text=True, **{"capture_output": True, **options})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder with difficult names of classes and files."""
    folder = draw_folder(tmp_path_factory.mktemp("cli") / "shapes [red]", count=14)
    (folder / "disc").rename(folder / "[bold]disc[x] 🐦")
    (folder / "square").rename(folder / "new\nline")
    for index, name in enumerate((b"\xff\xfe.png", b"=1+1.png", b":smile:.png", "émeu 🐦.png".encode())):
        with open(os.path.join(os.fsencode(folder), b"stroke", name), "wb") as stream:
            draw("stroke", np.random.default_rng(900 + index)).save(stream, "PNG")
    return folder


@dataclass
class TrainedRun:
    """A run of `tercet train --json`, with its output."""

    path: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def training(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    path = tmp_path_factory.mktemp("cli-runs") / "run"
    arguments = ["train", str(data), *SMALL, *QUICK_FUSION, "--ensemble-methods", "average,e2e", "--json"]
    out, err = io.StringIO(), io.StringIO()
    with one_core(), redirect_stdout(out), redirect_stderr(err):
        assert main([*arguments, "--tensorboard", "false", "--output", str(path)]) == 0
    return TrainedRun(path, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(training: TrainedRun) -> Path:
    return training.path


# ------------------------------------------------------------------------------------------ help and version


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_and_argument(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    for field in find_command(command).options.fields.values():
        assert re.search(rf"^  {re.escape(field.option)}\b", out, re.MULTILINE), field.option
    for positional in find_command(command).positionals:
        assert re.search(rf"^  {re.escape(positional.label)}\b", out, re.MULTILINE)
    assert out.startswith(f"Usage: tercet {command}")
    assert "--json" in out and "--debug" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_the_help_can_be_parsed(command: str) -> None:
    for example in find_command(command).examples:
        find_command(command).parse_args(shlex.split(example))


def test_help_has_priority_over_errors(run: Run) -> None:
    assert run("predict", "no", "such", "--thing", "-h") == run("predict", "--help")


def test_the_general_help_lists_every_command(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80
    assert run("-h") == run("help") == (code, out, err)


def test_the_quick_start_commands_can_be_parsed(run: Run) -> None:
    lines = re.findall(r"^  tercet (\w+) (.*?)(?:  .*)?$", run("--help")[1], re.MULTILINE)
    assert [command for command, _ in lines] == ["train", "predict", "export"]
    for command, arguments in lines:
        find_command(command).parse_args(shlex.split(arguments))


def test_a_call_without_arguments_prints_the_first_commands(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "") and len(out.splitlines()) < 12
    lines = re.findall(r"^  tercet (\w+) (.*?)  ", out, re.MULTILINE)
    assert [command for command, _ in lines] == ["train", "predict", "serve"]
    for command, arguments in lines:
        find_command(command).parse_args(shlex.split(arguments))
    assert set(re.findall(r"tercet ([a-z]+)", out)) - {command for command, _ in lines} == {"probe", "demo"}
    assert "tercet --help" in out


def test_the_demo_climbs_the_ladder_and_says_what_to_type_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tercet.experiments.train as module

    small = {"patience": 1, "data": {"limit": 40}, "threads": 1, "tensorboard": False}
    monkeypatch.setattr(module, "_DEMO", {**module._DEMO, **small})
    with one_core():
        code, out, err = run("demo", "--output", tmp_path / "the demo")
    assert code == 0 and "10 classes; 40 train" in err
    assert re.findall(r"^([\w-]+) finished after", err, re.MULTILINE) == ["probe", "fine-tune", "ensemble"]
    last = out.splitlines()[-2:]
    commands = [shlex.split(text) for text in re.findall(r"tercet ([^,(\n]+)", "\n".join(last))]
    assert [command[0] for command in commands] == ["serve", "predict", "export", "probe", "train"]
    assert all(str(tmp_path / "the demo") in command for command in commands[:3])
    for command in commands:
        find_command(command[0]).parse_args(command[1:])


def test_version(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-V") == run("train", "-V") == run("--version") == (0, f"tercet {tercet.__version__}\n", "")
    monkeypatch.setattr(sys, "argv", ["tercet", "--version"])  # used when main() gets no arguments
    assert main() == 0
    assert capsys.readouterr().out == f"tercet {tercet.__version__}\n"


# ------------------------------------------------------------------------------------------ usage errors: exit code 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian", "data"], ["unknown command 'trian', did you mean 'train'?", "datasets"]),
        (["--json"], ["unknown command"]),
        (["train", "x", "--eopchs", "3"], ["--eopchs", "--epochs"]),
        (["train", "x", "-e", "3"], ["-e"]),
        (["train"], ["--resume"]),
        (["train", "x", "y"], ["'y'"]),
        (["train", "x", "--members", "smal-cnn"], ["did you mean 'small-cnn'"]),
        (["train", "x", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "x", "--config", "absent.yaml"], ["absent.yaml"]),
        (["train", "x", "--monitor-split", "tset"], ["--monitor-split", "validation"]),
        (["ensemble"], ["INPUTS"]),
        (["evaluate", "bundle", "data", "--batch-size", "0"], ["--batch-size 0 must be positive"]),
        (["predict", "bundle", "a.png", "--top-k"], ["--top-k"]),
        (["ensemble", "a.npy", "--ensemble-methods", "averge"], ["--ensemble-methods", "average"]),
        (["models", "row-lstm", "--scan", "cells"], ["scan"]),
        (["datasets", "fashion-mnits"], ["did you mean 'fashion-mnist'"]),
    ],
)
def test_usage_errors_name_the_argument_and_suggest_a_correction(
    run: Run, arguments: list[str], parts: list[str]
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tercet: error: ")
    assert all(part in err for part in parts), err
    assert "Traceback" not in err


def test_all_usage_errors_are_reported_together(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text("batch_siez: 3\nepochs: -2\n")
    code, _, err = run("train", "x", "--lrr", "3", "--config", config, "--monitor-split", "tset", "--data.limit", "few")
    assert code == 2
    for part in ("--lrr", "batch_size", "epochs", "tset", "--data.limit"):
        assert part in err
    assert len(err.splitlines()) >= 5  # one line per problem


def test_options_and_arguments_can_be_in_any_order(run: Run) -> None:
    size = ["--classes", "10", "--image-size", "28", "--channels", "1"]
    expected = run("models", "row-lstm", *size, "--json")
    assert expected[0] == 0
    for arguments in (
        [*size, "--json", "row-lstm"],
        ["--classes=10", "row-lstm", "--image-size=28,28", "--channels=1", "--json"],
        [*size, "--json", "--", "row-lstm"],
    ):
        assert run("models", *arguments) == expected


# ------------------------------------------------------------------------------------------ other exit codes


def test_data_errors_have_exit_code_3(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    single_class = tmp_path / "single"
    (single_class / "disc").mkdir(parents=True)
    draw("disc", np.random.default_rng(0)).save(single_class / "disc" / "1.png")
    for arguments in (
        ["train", tmp_path / "nowhere", "--members", "small-cnn", "--output", tmp_path / "run"],
        ["train", tmp_path / "empty", "--members", "small-cnn", "--output", tmp_path / "run"],
        ["train", single_class, "--members", "small-cnn", "--output", tmp_path / "run"],
        ["evaluate", trained, tmp_path / "nowhere"],
        ["predict", trained, tmp_path / "nowhere.png"],
        ["predict", trained, tmp_path / "empty"],
        ["ensemble", tmp_path / "nowhere.npy"],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (3, ""), err
        assert len(err.splitlines()) == 1 and str(tmp_path) in err
    assert not (tmp_path / "run").exists()


def test_model_errors_have_exit_code_4(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "tercet-bundle-1"}')
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    weights = ["--weights", tmp_path / "weights.safetensors", "--output", tmp_path / "run"]
    for arguments in (
        ["predict", tmp_path, data],
        ["predict", tmp_path / "nowhere", data],
        ["evaluate", tmp_path, data],
        ["train", data, "--members", "test_resnet", "--epochs", 1, *weights],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (4, ""), err
        assert str(tmp_path) in err


def test_storage_errors_have_exit_code_5(run: Run, data: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for arguments in (
        ["train", data, *SMALL, "--output", trained],
        ["train", data, *SMALL, "--output", tmp_path / "file"],
        ["train", data, *SMALL, "--output", tmp_path / "file" / "run"],
        ["train", "--resume", tmp_path],
        ["ensemble", tmp_path],
        ["predict", trained, data / "stroke", "--csv", tmp_path / "file" / "out.csv"],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (5, ""), err
    assert (tmp_path / "file").read_text() == "precious"


def test_a_diverging_training_has_exit_code_6(run: Run, data: Path, tmp_path: Path) -> None:
    arguments = ["--members", "small-cnn", "--lr", "1e30", "--epochs", "2", "--tensorboard", "false"]
    with one_core():
        code, out, err = run("train", data, *arguments, "--output", tmp_path / "run")
    assert (code, out) == (6, ""), err
    assert "loss is" in err and "--lr" in err and "small-cnn" in err and "--resume" in err


def test_exhausted_memory_has_exit_code_7(run: Run) -> None:
    code, out, err = run("models", "row-lstm", "--hidden-size", "3000000", "--image-size", "28")
    assert (code, out) == (7, ""), err
    assert "memory" in err


def test_tracebacks_need_debug(run: Run, tmp_path: Path) -> None:
    arguments = ["predict", tmp_path / "nowhere", "a.png"]
    assert "Traceback" not in run(*arguments)[2]
    code, _, err = run(*arguments, "--debug")
    assert code == 4
    assert "Traceback" in err and "ModelError" in err
    assert err.splitlines()[-1].startswith("tercet: error: ")


def run_own(run: Run, function: Function, *arguments: object) -> tuple[int, str, str]:
    """Run a function as a command of the user's."""
    with COMMANDS.scoped({"own": function}):
        return run("own", *arguments)


def test_an_internal_error_has_exit_code_1(run: Run) -> None:
    def fail() -> None:
        raise KeyError("oops")

    code, out, err = run_own(run, fail)
    assert (code, out) == (1, "")
    assert "internal error" in err and "KeyError" in err and "--debug" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_have_exit_codes_130_and_143(run: Run, number: signal.Signals, code: int) -> None:
    def interrupt() -> None:
        try:
            os.kill(os.getpid(), number)
        except Exception as error:  # as in decoders, which treat every error as damaged data
            raise AssertionError("the signal was caught as an error") from error

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    try:
        handlers = [signal.getsignal(item) for item in (signal.SIGINT, signal.SIGTERM)]
        exit_code, out, err = run_own(run, interrupt)
        assert (exit_code, out) == (code, "")
        assert "stopped by" in err and "Traceback" not in err
        assert [signal.getsignal(item) for item in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class CountConfig:
    """Images to count."""

    suffix: str = ".png"
    """File name extension."""

    def __post_init__(self) -> None:
        raise_problems([not self.suffix.startswith(".") and Problem("suffix starts with a dot", "suffix")])


def test_a_command_of_the_user_has_options_help_and_errors_like_the_others(run: Run, tmp_path: Path) -> None:
    def count(folder: Annotated[str, "folder with images"], *, config: CountConfig) -> str:
        """Count the images in a folder."""
        return f"{len(list(Path(folder).glob('*' + config.suffix)))} images"

    (tmp_path / "a.jpg").touch()
    assert run_own(run, count, tmp_path, "--suffix", ".jpg") == (0, "1 images\n", "")
    assert run_own(run, count, tmp_path, "--json") == (0, '"0 images"\n', "")
    code, out, err = run_own(run, count, "--sufix", "x")
    assert code == 2 and "did you mean '--suffix'?" in err and "FOLDER is missing: folder with images" in err
    (tmp_path / "options.yaml").write_text("suffix: jpg\n")
    code, out, err = run_own(run, count, tmp_path, "--config", tmp_path / "options.yaml")
    assert (code, err) == (2, f"tercet: error: {tmp_path / 'options.yaml'}: suffix starts with a dot\n")
    out = run_own(run, count, "--help")[1]
    assert "Count the images in a folder." in out and "File name extension. (default: .png)" in out
    with COMMANDS.scoped({"own": count}):
        assert re.search(r"^Further commands:\n  own +Count the images in a folder.$", run("--help")[1], re.MULTILINE)
    with pytest.raises(ConfigError, match="command 'train' is already registered"):
        tercet.register("command", "train", count)


# ------------------------------------------------------------------------------------------ results as JSON and text


def test_train_as_json(training: TrainedRun) -> None:
    document = strict_json(training.out)
    assert training.out.count("\n") == 1
    assert {row["name"] for row in document["members"]} == {"row-gru", "small-cnn"}
    assert [row["name"] for row in document["ensembles"]] == ["average", "e2e"]
    assert set(document["data"]["classes"]) == CLASSES
    assert document == strict_json((training.path / "metrics.json").read_text("utf-8"))
    assert "row-gru: epoch 1/2: train loss" in training.err  # progress is written to standard error
    assert "shapes [red]" in training.err


def test_train_as_text(trained: Path, run: Run) -> None:
    with one_core():
        code, out, err = run("train", "--resume", trained)
    assert (code, err) == (0, "")
    for part in ("row-gru", "small-cnn", "average", "e2e", str(trained), str(trained / "bundle")):
        assert part in out
    assert out.startswith((trained / "report.txt").read_text("utf-8"))


def test_ensemble(run: Run, trained: Path, tmp_path: Path) -> None:
    arguments = ["ensemble", trained, "--ensemble-methods", "vote,greedy", "--output", tmp_path / "out"]
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    assert [row["name"] for row in strict_json(out)["ensembles"]] == ["vote", "greedy"]
    assert run(*arguments)[0] == 5  # the folder exists
    assert "vote" in run("ensemble", trained, "--ensemble-methods", "vote", "--output", tmp_path / "text")[1]


def test_evaluate(run: Run, trained: Path, data: Path) -> None:
    code, out, err = run("evaluate", trained, data, "--json")
    assert (code, err) == (0, "")
    document = strict_json(out)
    assert document.keys() >= {"name", "accuracy", "macro_f1", "kappa", "members", "missing_classes", "extra_classes"}
    code, text, err = run("evaluate", trained, data)
    assert (code, err) == (0, "")
    assert "[bold]disc[x] 🐦" in text and r"new\nline" in text


def test_predict(run: Run, trained: Path, data: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    code, out, err = run("predict", trained, data / "stroke", "--top-k", "2", "--csv", table, "--json")
    assert (code, err) == (0, "")
    images = strict_json(out)["images"]
    names = {os.fsencode(Path(image["id"]).name) for image in images}
    assert {b"\xff\xfe.png", b"=1+1.png", b":smile:.png", "émeu 🐦.png".encode()} < names
    assert all(set(image["probabilities"]) <= CLASSES and len(image["probabilities"]) == 2 for image in images)
    assert len(table.read_bytes().splitlines()) > len(images)  # a header, and a class name with a line break
    code, text, err = run("predict", data / "stroke", trained)
    assert code == 4  # arguments in the wrong order: an image folder is not a bundle
    code, text, err = run("predict", trained, data / "stroke")
    assert (code, err) == (0, "")
    assert len(text.splitlines()) == len(images)
    for part in (":smile:.png: ", "=1+1.png: ", "émeu 🐦.png: ", r"\udcff\udcfe.png: "):
        assert part in text


def test_predict_reports_unreadable_images_and_classifies_the_others(
    run: Run, trained: Path, data: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bro\nken [red].png"
    bad.write_bytes(b"broken")
    good = next((data / "stroke").glob("stroke-*.png"))
    code, out, err = run("predict", trained, good, bad, "--json")
    assert (code, err) == (3, "")
    document = strict_json(out)
    assert [image["id"] for image in document["images"]] == [str(good)]
    assert document["unreadable"][0]["id"] == str(bad)
    code, out, err = run("predict", trained, good, bad)
    assert code == 3
    assert len(out.splitlines()) == 2 and "UNREADABLE" in out and r"bro\nken [red].png" in out


def test_ensemble_of_prediction_files(run: Run, trained: Path) -> None:
    files = sorted((trained / "predictions").glob("*-test.npz"))
    code, out, err = run("ensemble", *files, "--json")
    assert (code, err) == (0, "")
    document = strict_json(out)
    assert [row["name"] for row in document["members"]] == [path.stem for path in files]
    assert document.keys() >= {"ensemble", "comparison"}
    code, out, err = run("ensemble", *files)
    assert (code, err) == (0, "") and "average" in out
    assert run("ensemble", files[0])[0] == 0


@pytest.mark.parametrize("arguments", [["models"], ["models", "seresnext101"], ["datasets"], ["datasets", "digits"]])
def test_models_and_datasets(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    document = strict_json(out)
    code, text, err = run(*arguments)
    assert (code, err) == (0, "")
    names = [document] if arguments[-1] == "digits" else document
    for name in names:
        assert (name["title"] if isinstance(name, dict) else name) in text


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ("row-lstm --classes 10 --image-size 28 --channels 1 --num-biases 1", 216_426),
        ("e2e --members 3 --classes 10", 167_946),
    ],
)
def test_model_descriptions_have_the_published_sizes(run: Run, arguments: str, parameters: int) -> None:
    code, out, err = run("models", *arguments.split(), "--json")
    assert (code, err) == (0, "")
    document = strict_json(out)
    assert document["parameters"] == document["trainable"] == parameters
    assert document["flops"] > 0 and document["input"] and document["layers"]


# ------------------------------------------------------------------------------------------ names and streams


@pytest.mark.parametrize(
    "name", ["new\nline", "esc\x1b[31m", "[red]x[/y]", ":smile:", "\udcff", "émeu 🐦", "tab\there"]
)
def test_errors_are_one_printable_line_for_any_name(run: Run, tmp_path: Path, name: str) -> None:
    for arguments in (["predict", tmp_path / name, "x"], ["train", tmp_path / name, "--output", tmp_path / "run"]):
        code, _, err = run(*arguments)
        assert code in (3, 4)
        assert len(err.splitlines()) == 1 and "\x1b" not in err
        assert name.encode("unicode_escape").decode() in err or name in err
    code, _, err = run("train", "x", "--config", tmp_path / name)
    assert code == 2 and len(err.splitlines()) == 1


def test_warnings_are_one_line_on_standard_error(run: Run) -> None:
    def warn() -> CommandResult:
        warnings.warn("classes 'Cat' and 'cat\n' look alike", UserWarning, stacklevel=2)
        return CommandResult("done\n", None)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        code, out, err = run_own(run, warn)
        assert warnings.showwarning is before
    assert (code, out) == (0, "done\n")
    assert err == "tercet: warning: classes 'Cat' and 'cat\\n' look alike\n"


def test_characters_outside_the_encoding_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["models", "small-cnn", "--classes", "émeu"]) == 2
    assert rb"\xe9meu" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_python_m_tercet_and_the_script_run_main(tmp_path: Path) -> None:
    process = start("trian")
    assert (process.returncode, process.stdout) == (2, "")
    assert "unknown command 'trian'" in process.stderr and "Traceback" not in process.stderr
    script = Path(sys.executable).with_name("tercet")
    process = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, f"tercet {tercet.__version__}\n", "")


def closed_pipe() -> int:
    """Return the writing end of a pipe without a reader, as after `tercet ... | head -0`."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("arguments", ["train --help", "datasets --json"])
def test_a_closed_pipe_is_not_an_error(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(closed_pipe(), "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(arguments.split()) == 0


def test_a_process_with_a_closed_pipe_ends_without_a_message() -> None:
    pipe = closed_pipe()
    try:
        process = start("--help", capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    finally:
        os.close(pipe)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.slow
def test_head_reads_the_first_line_of_a_long_output() -> None:
    command = f"{sys.executable} -m tercet models | head -n 1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    assert len(process.stdout.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_for_the_output_has_exit_code_5() -> None:
    with open("/dev/full", "w") as full:
        process = start("--help", capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert process.returncode == 5
        assert "No space left" in process.stderr and "Traceback" not in process.stderr
        assert start("trian", stderr=full, capture_output=False, stdout=subprocess.PIPE).returncode == 2


# ------------------------------------------------------------------------------------------ configuration files


def test_options_override_the_configuration_file_and_the_result_is_stored(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("epochs: 9\nlr: 1e-2\nbatch_size: 8\n")
    parsed = find_command("train").parse_args(["x", "--config", str(tmp_path / "options.yaml"), "--epochs", "2"])
    training = parsed.of(TrainingConfig)
    assert (training.epochs, training.lr, training.batch_size) == (2, 0.01, 8)
    record = RunFolder(trained).record()
    assert [record.options[key] for key in ("epochs", "lr", "batch_size")] == [2, 0.003, 16]
    assert record.command == "train" and str(record.source).endswith("shapes [red]")


def test_messages_spell_options_as_they_are_typed(run: Run, data: Path, tmp_path: Path) -> None:
    code, _, err = run("train", data, "--data.val-fraction", "0.6", "--data.test-fraction", "0.6")
    assert (code, err.splitlines()) == (
        2,
        ["tercet: error: --data.val-fraction and --data.test-fraction leave nothing to train on"],
    )
    (tmp_path / "run.yaml").write_text("data: {val_fraction: 0.6, test_fraction: 0.6}\n")
    code, _, err = run("train", data, "--config", tmp_path / "run.yaml")
    assert code == 2 and "data.val_fraction and data.test_fraction" in err  # as in the file
    broken = Path(shutil.copytree(data, tmp_path / "data"))
    (broken / "stroke" / "broken.png").write_bytes(b"broken")
    code, _, err = run("train", broken, "--data.max-bad-fraction", "0")
    assert code == 3 and "more than --data.max-bad-fraction 0 allows" in err
