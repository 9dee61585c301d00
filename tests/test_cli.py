"""The command line as people and programs meet it: words in, answers, messages and exit codes out."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tercet
from tercet.cli.main import COMMANDS, main
from tercet.config.commands import TRAIN
from tests.fixtures.runs import draw, draw_folder, one_core

Run = Callable[..., tuple[int, str, str]]
SMALL = ["--members", "row-gru,small-cnn", "--epochs", "2", "--lr", "0.003", "--batch-size", "16"]
QUIET = ["--tensorboard", "false", "--fusion.width", "16", "--fusion.steps", "20", "--fusion.folds", "3"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that gives the words to `main` and returns exit code, standard output and error."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def strict(text: str) -> Any:
    """Return the one JSON document that a text is; NaN and infinities are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", *words]
    return subprocess.run(command, text=True, **{"capture_output": True, **options})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return pictures whose classes and files have names that break careless programs."""
    folder = draw_folder(tmp_path_factory.mktemp("cli") / "shapes [red]", count=14)
    (folder / "disc").rename(folder / "[bold]disc[x] 🐦")
    (folder / "square").rename(folder / "new\nline")
    for index, name in enumerate((b"\xff\xfe.png", b"=1+1.png", b":smile:.png", "émeu 🐦.png".encode())):
        with open(os.path.join(os.fsencode(folder), b"stroke", name), "wb") as stream:
            draw("stroke", np.random.default_rng(900 + index)).save(stream, "PNG")
    return folder


CLASSES = {"[bold]disc[x] 🐦", "new\nline", "stroke"}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that the command line made."""
    output = tmp_path_factory.mktemp("cli-runs") / "run"
    with one_core():
        assert main(["train", str(data), *SMALL, *QUIET, "--output", str(output)]) == 0
    return output


# ------------------------------------------------------------------------------------------ help, versions, verbs


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_tells_every_option_and_argument(run: Run, verb: str) -> None:
    code, out, err = run(verb, "--help")
    options, _ = COMMANDS[verb]
    assert (code, err) == (0, "")
    for field in options.schema.fields.values():
        assert re.search(rf"^  {re.escape(field.option)}\b", out, re.MULTILINE), field.option
    for positional in options.positionals:
        assert re.search(rf"^  {re.escape(positional.label)}\b", out, re.MULTILINE)
    assert out.startswith(f"Usage: tercet {verb}")
    assert "--json" in out and "--debug" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("verb", COMMANDS)
def test_examples_of_the_help_can_be_given(verb: str) -> None:
    options, _ = COMMANDS[verb]
    for example in options.examples:
        options.parse_args(shlex.split(example))


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_wins_over_everything_else(run: Run, verb: str) -> None:
    assert run(verb, "no", "such", "--thing", "-h") == run(verb, "--help")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_the_general_help_names_every_verb(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    for verb in COMMANDS:
        assert re.search(rf"^  {verb} ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_no_words_at_all_is_a_usage_error(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "train" in err


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"tercet {tercet.__version__}\n", "")


def test_words_come_from_the_command_line_where_none_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tercet", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("tercet ")


# ------------------------------------------------------------------------------------------ usage errors: exit code 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "data"], ["unknown command 'trian', did you mean 'train'?", "datasets"]),
        (["--json"], ["unknown command"]),
        (["train", "x", "--eopchs", "3"], ["--eopchs", "--epochs"]),
        (["train", "x", "--fusion.widht", "3"], ["--fusion.width"]),
        (["train"], ["--resume"]),
        (["train", "x", "y"], ["'y'"]),
        (["train", "x", "--members", "smal-cnn"], ["did you mean 'small-cnn'"]),
        (["train", "x", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "x", "--config", "absent.yaml"], ["absent.yaml"]),
        (["train", "x", "--monitor-split", "tset"], ["--monitor-split", "validation"]),
        (["ensemble"], ["RUNS|FILES"]),
        (["evaluate", "bundle"], ["DATA"]),
        (["evaluate", "bundle", "data", "--batch-size", "0"], ["batch_size"]),
        (["predict", "bundle"], ["IMAGES"]),
        (["predict", "bundle", "a.png", "--top-k", "0"], ["top_k"]),
        (["predict", "bundle", "a.png", "--top-k"], ["--top-k"]),
        (["ensemble", "a.npy", "--ensemble-methods", "averge"], ["--ensemble-methods", "average"]),
        (["models", "smal-cnn"], ["did you mean 'small-cnn'"]),
        (["models", "row-lstm", "--classes", "1"], ["classes"]),
        (["models", "row-lstm", "--scan", "rows"], ["scan"]),
        (["datasets", "fashion-mnits"], ["did you mean 'fashion-mnist'"]),
        (["demo", "now"], ["'now'"]),
        (["demo", "--ouptut", "x"], ["--output"]),
        (["train", "x", "-e", "3"], ["-e"]),
    ],
)
def test_wrong_words_are_named_with_what_was_probably_meant(run: Run, words: list[str], said: list[str]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("tercet: error: ")
    assert all(part in err for part in said), err
    assert "Traceback" not in err


def test_all_problems_are_told_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("batch_siez: 3\nepochs: -2\n")
    code, _, err = run(
        "train",
        "x",
        "--lrr",
        "3",
        "--config",
        tmp_path / "options.yaml",
        "--monitor-split",
        "tset",
        "--data.limit",
        "few",
    )
    assert code == 2
    for part in ("--lrr", "batch_size", "epochs", "tset", "--data.limit"):
        assert part in err
    assert len(err.splitlines()) >= 5  # one line a problem


def test_options_may_stand_before_and_after_the_words(run: Run) -> None:
    size = ["--classes", "10", "--image-size", "28", "--channels", "1"]
    answers = [
        run("models", *words)
        for words in (["row-lstm", *size, "--json"], [*size, "--json", "row-lstm"], ["--json", "row-lstm", *size])
    ]
    assert answers[0][0] == 0
    assert answers[0] == answers[1] == answers[2]
    assert run("models", "--classes=10", "row-lstm", "--image-size=28,28", "--channels=1", "--json") == answers[0]
    assert run("models", *size, "--json", "--", "row-lstm") == answers[0]


# ------------------------------------------------------------------------------------------ the other exit codes


def test_bad_data_is_3(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    draw_folder(tmp_path / "one", count=2)
    for kind in ("disc", "square"):
        for path in (tmp_path / "one" / kind).iterdir():
            path.unlink()
        (tmp_path / "one" / kind).rmdir()
    for words in (
        ["train", tmp_path / "nowhere", "--members", "small-cnn", "--output", tmp_path / "run"],
        ["train", tmp_path / "empty", "--members", "small-cnn", "--output", tmp_path / "run"],
        ["train", tmp_path / "one", "--members", "small-cnn", "--output", tmp_path / "run"],
        ["evaluate", trained, tmp_path / "nowhere"],
        ["predict", trained, tmp_path / "nowhere.png"],
        ["predict", trained, tmp_path / "empty"],
        ["ensemble", tmp_path / "nowhere.npy"],
    ):
        code, out, err = run(*words)
        assert (code, out) == (3, ""), err
        assert len(err.splitlines()) == 1 and str(tmp_path) in err
    assert not (tmp_path / "run").exists()


def test_a_bad_model_is_4(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "tercet-bundle-1"}')
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    for words in (
        ["predict", tmp_path, data],
        ["predict", tmp_path / "nowhere", data],
        ["evaluate", tmp_path, data],
        ["train", data, "--members", "test_resnet", "--weights", tmp_path / "weights.safetensors", "--epochs", 1],
    ):
        output = ["--output", tmp_path / "run"] if words[0] == "train" else []
        code, out, err = run(*words, *output)
        assert (code, out) == (4, ""), err
        assert str(tmp_path) in err


def test_the_disk_is_5(run: Run, data: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for words in (
        ["train", data, *SMALL, "--output", trained],
        ["train", data, *SMALL, "--output", tmp_path / "file"],
        ["train", data, *SMALL, "--output", tmp_path / "file" / "run"],
        ["train", "--resume", tmp_path],
        ["ensemble", tmp_path],
        ["predict", trained, data / "stroke", "--csv", tmp_path / "file" / "out.csv"],
    ):
        code, out, err = run(*words)
        assert (code, out) == (5, ""), err
    assert (tmp_path / "file").read_text() == "precious"


def test_a_diverging_training_is_6(run: Run, data: Path, tmp_path: Path) -> None:
    words = ["train", data, "--members", "small-cnn", "--lr", "1e30", "--epochs", "2", "--output", tmp_path / "run"]
    with one_core():
        code, out, err = run(*words, "--tensorboard", "false")
    assert (code, out) == (6, ""), err
    assert "loss is" in err and "--lr" in err and "small-cnn" in err and "--resume" in err


def test_exhausted_memory_is_7(run: Run) -> None:
    code, out, err = run("models", "row-lstm", "--hidden-size", "3000000", "--image-size", "28")
    assert (code, out) == (7, ""), err
    assert "memory" in err


def test_a_traceback_is_shown_only_on_request(run: Run, tmp_path: Path) -> None:
    words = ["predict", tmp_path / "nowhere", "a.png"]
    assert "Traceback" not in run(*words)[2]
    code, _, err = run(*words, "--debug")
    assert code == 4
    assert "Traceback" in err and "ModelError" in err
    assert err.splitlines()[-1].startswith("tercet: error: ")


def test_a_fault_of_our_own_is_1_and_asks_for_a_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(parsed: object) -> None:
        raise KeyError("oops")

    monkeypatch.setitem(COMMANDS, "datasets", (COMMANDS["datasets"][0], broken))  # type: ignore[arg-type]
    code, out, err = run("datasets")
    assert (code, out) == (1, "")
    assert "should not happen" in err and "KeyError" in err and "--debug" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_are_130_and_143(run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int) -> None:
    def stopped(parsed: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except Exception as error:  # what a decoder does that takes every error for damage
            raise AssertionError("the signal was taken for an error") from error

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    try:
        handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        monkeypatch.setitem(COMMANDS, "datasets", (COMMANDS["datasets"][0], stopped))  # type: ignore[arg-type]
        said, out, err = run("datasets")
        assert (said, out) == (code, "")
        assert "stopped by" in err and "Traceback" not in err
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------ one JSON document a verb


def test_train_as_json(run: Run, data: Path, tmp_path: Path) -> None:
    with one_core():
        code, out, err = run(
            "train", data, *SMALL, *QUIET, "--ensemble-methods", "average,e2e", "--output", tmp_path / "r", "--json"
        )
    assert code == 0, err
    document = strict(out)
    assert out.count("\n") == 1
    assert {row["name"] for row in document["members"]} == {"row-gru", "small-cnn"}
    assert [row["name"] for row in document["ensembles"]] == ["average", "e2e"]
    assert set(document["data"]["classes"]) == CLASSES
    assert document == strict((tmp_path / "r" / "metrics.json").read_text("utf-8"))
    assert "row-gru 1.1: train" in err  # progress goes where it does not disturb
    assert "shapes [red]" in err


def test_train_as_text(trained: Path, run: Run) -> None:
    with one_core():
        code, out, err = run("train", "--resume", trained)
    assert (code, err) == (0, "")
    for part in ("row-gru", "small-cnn", "average", "e2e", str(trained), str(trained / "bundle")):
        assert part in out
    assert out.startswith((trained / "report.txt").read_text("utf-8"))


def test_ensemble(run: Run, trained: Path, tmp_path: Path) -> None:
    words = ["ensemble", trained, "--ensemble-methods", "vote,greedy", "--output", tmp_path / "out"]
    code, out, err = run(*words, "--json")
    assert code == 0, err
    assert [row["name"] for row in strict(out)["ensembles"]] == ["vote", "greedy"]
    assert run(*words)[0] == 5  # it exists now
    assert "vote" in run("ensemble", trained, "--ensemble-methods", "vote", "--output", tmp_path / "text")[1]


def test_evaluate(run: Run, trained: Path, data: Path) -> None:
    code, out, err = run("evaluate", trained, data, "--json")
    assert (code, err) == (0, "")
    document = strict(out)
    assert document.keys() >= {"name", "accuracy", "macro_f1", "kappa", "members", "missing_classes", "extra_classes"}
    code, text, err = run("evaluate", trained, data)
    assert (code, err) == (0, "")
    assert "[bold]disc[x] 🐦" in text and r"new\nline" in text


def test_predict(run: Run, trained: Path, data: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    code, out, err = run("predict", trained, data / "stroke", "--top-k", "2", "--csv", table, "--json")
    assert (code, err) == (0, "")
    images = strict(out)["images"]
    names = {os.fsencode(Path(image["id"]).name) for image in images}
    assert {b"\xff\xfe.png", b"=1+1.png", b":smile:.png", "émeu 🐦.png".encode()} < names
    assert all(set(image["probabilities"]) <= CLASSES and len(image["probabilities"]) == 2 for image in images)
    assert len(table.read_bytes().splitlines()) > len(images)  # the header and one name with a line end
    code, text, err = run("predict", data / "stroke", trained)
    assert code == 4  # in the wrong order: a folder of pictures is no bundle
    code, text, err = run("predict", trained, data / "stroke")
    assert (code, err) == (0, "")
    assert len(text.splitlines()) == len(images)
    for part in (":smile:.png: ", "=1+1.png: ", "émeu 🐦.png: ", r"\udcff\udcfe.png: "):
        assert part in text


def test_predict_tells_what_it_could_not_read_and_still_answers(
    run: Run, trained: Path, data: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bro\nken [red].png"
    bad.write_bytes(b"broken")
    good = next((data / "stroke").glob("stroke-*.png"))
    code, out, err = run("predict", trained, good, bad, "--json")
    assert (code, err) == (3, "")
    document = strict(out)
    assert [image["id"] for image in document["images"]] == [str(good)]
    assert document["unreadable"][0]["id"] == str(bad)
    code, out, err = run("predict", trained, good, bad)
    assert code == 3
    assert len(out.splitlines()) == 2 and "UNREADABLE" in out and r"bro\nken [red].png" in out


def test_ensemble_of_prediction_files(run: Run, trained: Path) -> None:
    files = sorted((trained / "predictions").glob("*-test.npz"))
    code, out, err = run("ensemble", *files, "--json")
    assert (code, err) == (0, "")
    document = strict(out)
    assert [row["name"] for row in document["members"]] == [path.stem for path in files]
    assert document.keys() >= {"ensemble", "comparison"}
    code, out, err = run("ensemble", *files)
    assert (code, err) == (0, "") and "average" in out
    assert run("ensemble", files[0])[0] == 0


@pytest.mark.parametrize("words", [["models"], ["models", "seresnext101"], ["datasets"], ["datasets", "digits"]])
def test_lists(run: Run, words: list[str]) -> None:
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    document = strict(out)
    code, text, err = run(*words)
    assert (code, err) == (0, "")
    names = [document["name"]] if words[-1] == "digits" else document
    for name in names:
        assert (name["title"] if isinstance(name, dict) else name) in text or words[-1] == "digits"


@pytest.mark.parametrize(
    ("words", "parameters", "buffers"),
    [
        ("row-lstm --classes 10 --image-size 28 --channels 1 --num-biases 1", 216_426, 0),
        ("small-cnn --classes 10 --image-size 28 --channels 1 --num-biases 1", 697_130, 0),
        ("e2e --members 3 --classes 10", 167_946, 0),
        ("e2e --members 3 --classes 5", 86_021, 0),
        ("e2e --members 3 --classes 100", 1_642_596, 0),
        ("seresnext101_32x4d --classes 10 --head-hidden-dim 2048", 51_123_258, 137_856),
    ],
)
def test_the_published_sizes(run: Run, words: str, parameters: int, buffers: int) -> None:
    code, out, err = run("models", *words.split(), "--json")
    assert (code, err) == (0, "")
    document = strict(out)
    assert (document["parameters"], document["trainable"], document["buffers"]) == (parameters, parameters, buffers)
    assert document["flops"] > 0 and document["input"] and document["layers"]


# ------------------------------------------------------------------------------------------ names and streams


@pytest.mark.parametrize(
    "name", ["new\nline", "esc\x1b[31m", "[red]x[/y]", ":smile:", "\udcff", "émeu 🐦", "tab\there"]
)
def test_errors_about_any_name_are_one_readable_line(run: Run, tmp_path: Path, name: str) -> None:
    for words in (["predict", tmp_path / name, "x"], ["train", tmp_path / name, "--output", tmp_path / "run"]):
        code, _, err = run(*words)
        assert code in (3, 4)
        assert len(err.splitlines()) == 1 and "\x1b" not in err
        assert name.encode("unicode_escape").decode() in err or name in err


def test_warnings_are_one_line_and_go_to_standard_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(parsed: object) -> Any:
        from tercet.cli.commands import Answer

        warnings.warn("classes 'Cat' and 'cat\n' look alike", UserWarning, stacklevel=2)
        return Answer("done\n", None)

    monkeypatch.setitem(COMMANDS, "datasets", (COMMANDS["datasets"][0], odd))  # type: ignore[arg-type]
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        code, out, err = run("datasets")
        assert warnings.showwarning is before
    assert (code, out) == (0, "done\n")
    assert err == "tercet: warning: classes 'Cat' and 'cat\\n' look alike\n"


def test_what_cannot_be_encoded_is_escaped(data: Path) -> None:
    done = process("models", "small-cnn", "--classes", "émeu", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and r"\xe9meu" in done.stderr


def test_a_process_of_its_own() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tercet {tercet.__version__}\n", "")
    done = process("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "train --help", "datasets --json", "--version"])
def test_a_reader_that_leaves_is_no_error(words: str) -> None:
    read, write = os.pipe()
    os.close(read)  # as `tercet ... | head -0` does, without its race
    try:
        done = process(*words.split(), capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_head_reads_the_first_line_of_a_long_answer() -> None:
    command = f"{sys.executable} -m tercet models | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_the_output_is_5() -> None:
    with open("/dev/full", "w") as full:
        done = process("--help", capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 5
        assert "No space left" in done.stderr and "Traceback" not in done.stderr
        assert process("trian", stderr=full, capture_output=False, stdout=subprocess.PIPE).returncode == 2


def test_the_command_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("tercet")
    done = subprocess.run([script, "train", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, process("train", "--help").stdout)


# ------------------------------------------------------------------------------------------ configuration files


def test_the_command_line_overrides_the_file_and_the_resolved_one_is_kept(trained: Path, tmp_path: Path) -> None:
    from tercet.config.training import TrainingConfig
    from tercet.core.yaml_io import read_mapping

    (tmp_path / "options.yaml").write_text("epochs: 9\nlr: 1e-2\nbatch_size: 8\n")
    parsed = TRAIN.parse_args(["x", "--config", str(tmp_path / "options.yaml"), "--epochs", "2"])
    training = parsed.of(TrainingConfig)
    assert (training.epochs, training.lr, training.batch_size) == (2, 0.01, 8)
    kept = read_mapping(trained / "config.yaml")
    assert (kept["epochs"], kept["lr"], kept["batch_size"]) == (2, 0.003, 16)
    assert kept["data_source"].endswith("shapes [red]")
